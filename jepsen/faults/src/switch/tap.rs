//! Network namespaces without names, and TAP interfaces in them, made with system calls alone.
//!
//! A namespace lives as long as a file descriptor or a process is in it; a TAP as long as its descriptor is open. So
//! nothing has to be removed, however this process ends.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_short};

/// `<linux/if_arp.h>`: complete, and not to be forgotten.
const ATF_COM: c_int = 0x02;
const ATF_PERM: c_int = 0x04;

/// The interface's address, and those of all ends of its network.
pub struct Addresses<'a> {
    pub own: Ipv4Addr,
    pub mask: Ipv4Addr,
    pub all: &'a [(Ipv4Addr, [u8; 6])],
}

/// The end of an interface that is not in the kernel; reads and writes are whole frames and never block.
#[derive(Debug)]
pub struct Tap {
    file: OwnedFd,
}

fn check(result: c_int, what: &str) -> io::Result<c_int> {
    if result >= 0 {
        return Ok(result);
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(error.kind(), format!("{what}: {error}")))
}

/// Puts the calling thread into a namespace.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is passed.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs `work` on a thread of its own and waits; a panic goes on here.
pub fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".into()).spawn_scoped(scope, work)?;
        thread.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}

/// A new namespace with its loopback interface up. The calling thread stays in it.
pub fn new_namespace() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }, "unshare")?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    Socket::new()?.bring_up(&named(c"lo"))?;
    Ok(namespace.into())
}

/// A socket on which interfaces of the calling thread's namespace are set up.
struct Socket(OwnedFd);

fn named(name: &CStr) -> libc::ifreq {
    // SAFETY: all zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, &from) in request.ifr_name.iter_mut().zip(name.to_bytes()).take(libc::IFNAMSIZ - 1) {
        *to = from as libc::c_char;
    }
    request
}

fn internet(address: Ipv4Addr) -> libc::sockaddr {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes that begin with the family.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) }
}

fn ethernet(address: [u8; 6]) -> libc::sockaddr {
    // SAFETY: all zeros are a valid address.
    let mut result: libc::sockaddr = unsafe { std::mem::zeroed() };
    result.sa_family = libc::ARPHRD_ETHER;
    for (to, from) in result.sa_data.iter_mut().zip(address) {
        *to = from as libc::c_char;
    }
    result
}

impl Socket {
    fn new() -> io::Result<Socket> {
        // SAFETY: the descriptor, if there is one, is new and ours.
        unsafe {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
            Ok(Socket(OwnedFd::from_raw_fd(check(socket, "socket")?)))
        }
    }

    fn set(&self, request: libc::c_ulong, interface: &libc::ifreq, what: &str) -> io::Result<()> {
        // SAFETY: these requests read an `ifreq`.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, std::ptr::from_ref(interface)) }, what)?;
        Ok(())
    }

    fn bring_up(&self, interface: &libc::ifreq) -> io::Result<()> {
        let mut interface = *interface;
        interface.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as c_short;
        self.set(libc::SIOCSIFFLAGS, &interface, "bring an interface up")
    }

    /// The neighbour is known for ever: nobody asks for it, so no answer can be lost.
    fn set_neighbour(&self, interface: &libc::ifreq, at: Ipv4Addr, hardware: [u8; 6]) -> io::Result<()> {
        let request = libc::arpreq {
            arp_pa: internet(at),
            arp_ha: ethernet(hardware),
            arp_flags: ATF_COM | ATF_PERM,
            arp_netmask: internet(Ipv4Addr::UNSPECIFIED),
            arp_dev: interface.ifr_name,
        };
        // SAFETY: the request reads an `arpreq`.
        check(
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCSARP as _, std::ptr::from_ref(&request)) },
            "set a neighbour",
        )?;
        Ok(())
    }
}

impl Tap {
    /// A TAP in the calling thread's namespace, set up and up. The kernel numbers its name.
    pub fn new(addresses: &Addresses<'_>) -> io::Result<Tap> {
        let device = File::options().read(true).write(true).open("/dev/net/tun")?;
        let mut interface = named(c"keel%d");
        interface.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as c_short;
        // SAFETY: the request reads an `ifreq` and writes its name.
        check(
            unsafe {
                libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, std::ptr::from_mut(&mut interface))
            },
            "make a TAP",
        )?;
        let file = OwnedFd::from(device);
        // SAFETY: flags of our own descriptor.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }, "fcntl")?;
        let socket = Socket::new()?;
        let own = addresses.all.iter().find(|(address, _)| *address == addresses.own);
        if let Some((_, hardware)) = own {
            interface.ifr_ifru.ifru_hwaddr = ethernet(*hardware);
            socket.set(libc::SIOCSIFHWADDR, &interface, "set a hardware address")?;
        }
        interface.ifr_ifru.ifru_addr = internet(addresses.own);
        socket.set(libc::SIOCSIFADDR, &interface, "set an address")?;
        interface.ifr_ifru.ifru_netmask = internet(addresses.mask);
        socket.set(libc::SIOCSIFNETMASK, &interface, "set a net mask")?;
        socket.bring_up(&interface)?;
        for &(address, hardware) in addresses.all.iter().filter(|(address, _)| *address != addresses.own) {
            socket.set_neighbour(&interface, address, hardware)?;
        }
        Ok(Tap { file })
    }

    pub fn descriptor(&self) -> c_int {
        self.file.as_raw_fd()
    }

    /// The next frame that the kernel sends; `None` if there is none now.
    pub fn read<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a mut [u8]> {
        // SAFETY: the buffer is writable for its length.
        let length = unsafe { libc::read(self.file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        usize::try_from(length).ok().filter(|&length| length > 0).map(|length| &mut buffer[..length])
    }

    /// Gives the kernel a frame; whether it took it.
    pub fn write(&self, frame: &[u8]) -> bool {
        // SAFETY: the frame is readable for its length.
        unsafe {
            libc::write(self.file.as_raw_fd(), frame.as_ptr().cast(), frame.len()) == frame.len() as isize
        }
    }
}

/// How many interfaces of the calling thread's namespace have an address in a network.
pub fn addresses_within(network: Ipv4Addr, mask: Ipv4Addr) -> io::Result<usize> {
    let mut list = std::ptr::null_mut();
    // SAFETY: the list is the kernel's until it is freed, and walked before that.
    unsafe {
        check(libc::getifaddrs(&mut list), "getifaddrs")?;
        let (mut found, mut next) = (0, list);
        while let Some(entry) = next.as_ref() {
            if entry.ifa_addr.as_ref().is_some_and(|address| c_int::from(address.sa_family) == libc::AF_INET)
            {
                let address = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                let address = u32::from_be(address.sin_addr.s_addr);
                found += usize::from(address & u32::from(mask) == u32::from(network));
            }
            next = entry.ifa_next;
        }
        libc::freeifaddrs(list);
        Ok(found)
    }
}
