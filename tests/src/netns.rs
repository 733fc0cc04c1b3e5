//! Network namespaces: hosts on one bridge, each of which can be cut off.
//! The bridge itself lives in a namespace of its own, so no address, route or device of the machine is used
//! or changed; the only names outside are those of the namespaces, which carry the process id, and below
//! `/etc/netns` those of hosts that have a name server. They are removed on drop, after failures too. Needs root and
//! `ip`.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{binary, cluster::Host};

const HUB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and has no effects.
    unsafe { libc::geteuid() == 0 }
}

pub struct Network {
    prefix: String,
    size: usize,
}

impl Network {
    /// Makes `size` hosts; where that is not possible, says why, and the test is skipped.
    pub fn or_skip(size: usize) -> Option<Network> {
        let skip =
            |reason| binary::missing(&format!("{reason} (run as root, with `ip` of the package iproute2)"));
        Network::new(size).map_err(skip).ok()
    }

    fn new(size: usize) -> Result<Network, String> {
        if !is_root() {
            return Err("network namespaces need root".to_string());
        }
        let network = Network { prefix: format!("keelson-{}", std::process::id()), size };
        let hub = network.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &hub, "addr", "add", &format!("{HUB_ADDRESS}/24"), "dev", "br0"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        for n in 0..size {
            let (host, port) = (network.name(n), format!("port{n}"));
            ip(&["netns", "add", &host])?;
            ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &host, "addr", "add", &format!("{}/24", network.address(n)), "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    /// The namespace of the bridge, from which every host that is not cut off can be reached.
    pub fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    pub fn hub_address(&self) -> IpAddr {
        HUB_ADDRESS.into()
    }

    pub fn name(&self, n: usize) -> String {
        format!("{}-{n}", self.prefix)
    }

    fn address(&self, n: usize) -> IpAddr {
        let last = u8::try_from(n + 1).expect("few hosts");
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, last))
    }

    pub fn hosts(&self) -> Vec<Host> {
        let prefix = |n| ["ip", "netns", "exec", &self.name(n)].map(str::to_string).to_vec();
        (0..self.size).map(|n| Host { address: self.address(n), prefix: prefix(n) }).collect()
    }

    /// Processes on the hosts ask this address for names, by the port of DNS, those without a dot in the domain
    /// `search`;
    /// `ip netns exec` shows them files of their own.
    pub fn set_name_server(&self, address: IpAddr, search: &str) {
        for n in 0..self.size {
            let dir = self.files_of(n);
            std::fs::create_dir_all(&dir).expect("a directory for the host's files");
            let text = format!("nameserver {address}\nsearch {search}\n");
            std::fs::write(dir.join("resolv.conf"), text).expect("resolv.conf");
        }
    }

    fn files_of(&self, n: usize) -> PathBuf {
        Path::new("/etc/netns").join(self.name(n))
    }

    /// Cuts host `n` off from all others; it still reaches itself.
    pub fn isolate(&self, n: usize) {
        self.set_port(n, "down");
    }

    pub fn heal(&self, n: usize) {
        self.set_port(n, "up");
    }

    fn set_port(&self, n: usize, state: &str) {
        ip(&["-n", &self.hub(), "link", "set", &format!("port{n}"), state]).expect("bridge port");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for n in 0..self.size {
            // Few have some.
            let _ = std::fs::remove_dir_all(self.files_of(n));
        }
        for name in (0..self.size).map(|n| self.name(n)).chain([self.hub()]) {
            // Those that were not made yet cannot be removed.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// Runs `body` on a thread and runtime of its own inside a namespace; its panics go on in the caller.
pub fn inside<T: Send + 'static, F: Future<Output = T>>(
    namespace: &str,
    body: impl FnOnce() -> F + Send + 'static,
) -> T {
    let path = format!("/run/netns/{namespace}");
    let thread = std::thread::spawn(move || {
        let file = File::open(&path).unwrap_or_else(|error| panic!("open {path}: {error}"));
        // SAFETY: setns moves only this thread, and the descriptor is open.
        let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(entered, 0, "enter {path}: {}", std::io::Error::last_os_error());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(body())
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot run ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
