//! Programs that talk through the switch.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use faults::switch::{Link, Port, Switch, available};

use crate::can;

const CLIENTS: Port = Port::Clients;
const FIRST: Port = Port::Member(0);
const SECOND: Port = Port::Member(1);
const PATIENCE: Duration = Duration::from_secs(20);

fn switch(members: usize) -> Option<Switch> {
    can(available()).then(|| Switch::new(members, 1).expect("a switch"))
}

/// A socket in a member's namespace.
fn udp(switch: &Switch, member: usize) -> UdpSocket {
    let place = switch.member(member);
    let address = place.address;
    let socket = place.inside(move || UdpSocket::bind((address, 0))).expect("enter").expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

fn client(switch: &Switch) -> UdpSocket {
    let socket = UdpSocket::bind((switch.client_address(), 0)).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

fn at(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("bound")
}

/// Sends and receives one datagram; how long it took.
fn pass(from: &UdpSocket, to: &UdpSocket, text: &[u8]) -> Duration {
    let began = Instant::now();
    from.send_to(text, at(to)).expect("send");
    let mut buffer = [0; 2000];
    let (length, source) = to.recv_from(&mut buffer).expect("arrives");
    assert_eq!((&buffer[..length], source), (text, at(from)));
    began.elapsed()
}

/// Whatever has arrived, up to a last datagram that is sent on an undisturbed link.
fn drain(switch: &Switch, from: Port, to: Port, sender: &UdpSocket, receiver: &UdpSocket) -> Vec<Vec<u8>> {
    switch.set(from, to, Link::default());
    sender.send_to(b"the last", at(receiver)).expect("send");
    let mut received = Vec::new();
    loop {
        let mut buffer = [0; 2000];
        let (length, _) = receiver.recv_from(&mut buffer).expect("the last arrives");
        if &buffer[..length] == b"the last" {
            return received;
        }
        received.push(buffer[..length].to_vec());
    }
}

#[test]
fn members_and_clients_reach_each_other() {
    let Some(switch) = switch(3) else { return };
    let sockets: Vec<UdpSocket> = (0..3).map(|n| udp(&switch, n)).chain([client(&switch)]).collect();
    for from in &sockets {
        for to in &sockets {
            if at(from) != at(to) {
                pass(from, to, b"hello");
            }
        }
    }
    assert_eq!(switch.counts(FIRST, SECOND).forwarded, 1);
    assert_eq!(switch.counts(CLIENTS, FIRST).forwarded, 1);
    assert_eq!(switch.counts(FIRST, FIRST).forwarded, 0);
}

#[test]
fn a_command_runs_inside() {
    let Some(switch) = switch(1) else { return };
    let mut command = Command::new("cat");
    command.arg("/proc/net/dev");
    switch.member(0).enter(&mut command).expect("a descriptor");
    let inside = String::from_utf8(command.output().expect("cat").stdout).expect("text");
    let outside = std::fs::read_to_string("/proc/thread-self/net/dev").expect("read");
    let interfaces = |text: &str| text.lines().filter(|line| line.contains(':')).count();
    assert_eq!(interfaces(&inside), 2, "{inside}");
    assert_ne!(inside, outside);
    assert!(switch.member(0).namespace_path().exists());
}

#[test]
fn two_networks_at_once_do_not_meet() {
    let (Some(one), Some(other)) = (switch(2), switch(2)) else { return };
    assert_ne!(one.client_address(), other.client_address());
    for switch in [&one, &other] {
        pass(&client(switch), &udp(switch, 0), b"hello");
    }
}

fn echo(listener: TcpListener) -> JoinHandle<io::Result<()>> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = [0; 1 << 16];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                length => stream.write_all(&buffer[..length])?,
            }
        }
    })
}

/// Loss, repetition, reordering and corruption are mended by TCP.
#[test]
fn a_stream_gets_through_a_bad_network() {
    let Some(switch) = switch(1) else { return };
    let address = switch.member(0).address;
    let listener =
        switch.member(0).inside(move || TcpListener::bind((address, 0))).expect("enter").expect("bind");
    let target = listener.local_addr().expect("bound");
    let server = echo(listener);
    let bad = Link { loss: 0.02, duplicate: 0.05, reorder: 0.05, corrupt: 0.02, ..Link::default() };
    switch.change_all(|link| *link = bad);
    let stream = TcpStream::connect_timeout(&target, PATIENCE).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let sent: Vec<u8> = (0..400_000u32).map(|n| (n % 251) as u8).collect();
    let mut reader = stream.try_clone().expect("clone");
    let expected = sent.clone();
    let reading = std::thread::spawn(move || {
        let mut received = vec![0; expected.len()];
        reader.read_exact(&mut received).expect("all of it");
        assert!(received == expected);
    });
    (&stream).write_all(&sent).expect("send");
    reading.join().expect("reader");
    drop(stream);
    switch.heal();
    server.join().expect("server").expect("echo");
    let counts = [switch.counts(CLIENTS, FIRST), switch.counts(FIRST, CLIENTS)];
    let sum = |count: fn(&faults::switch::Counts) -> u64| counts.iter().map(count).sum::<u64>();
    assert!(sum(|counts| counts.lost) > 0 && sum(|counts| counts.corrupted) > 0, "{counts:?}");
    assert!(sum(|counts| counts.duplicated) > 0 && sum(|counts| counts.reordered) > 0, "{counts:?}");
}

#[test]
fn a_block_cuts_one_direction_until_it_is_lifted() {
    let Some(switch) = switch(2) else { return };
    let (first, second) = (udp(&switch, 0), udp(&switch, 1));
    switch.change(FIRST, SECOND, |link| link.blocked = true);
    first.send_to(b"lost", at(&second)).expect("send");
    pass(&second, &first, b"the other way");
    assert_eq!(drain(&switch, FIRST, SECOND, &first, &second), Vec::<Vec<u8>>::new());
    assert_eq!(switch.counts(FIRST, SECOND).blocked, 1);
    switch.block(FIRST, SECOND, true);
    assert!(switch.link(SECOND, FIRST).blocked);
    switch.heal();
    pass(&first, &second, b"again");
}

#[test]
fn a_delay_is_no_shorter_than_it_says() {
    let Some(switch) = switch(2) else { return };
    let (first, second) = (udp(&switch, 0), udp(&switch, 1));
    let delay = Duration::from_millis(30);
    switch.set(FIRST, SECOND, Link { delay, jitter: Duration::from_millis(10), ..Link::default() });
    for _ in 0..5 {
        assert!(pass(&first, &second, b"late") >= delay);
    }
    assert_eq!(switch.counts(FIRST, SECOND).delayed, 5);
    assert_eq!(switch.counts(SECOND, FIRST).delayed, 0);
}

#[test]
fn loss_repetition_and_corruption_are_as_counted() {
    let Some(switch) = switch(2) else { return };
    let (first, second) = (udp(&switch, 0), udp(&switch, 1));
    let mut seen = 0;
    let mut send = |link: Link| {
        switch.set(FIRST, SECOND, link);
        for n in 0..100u32 {
            first.send_to(&n.to_le_bytes(), at(&second)).expect("send");
        }
        // Those that were sent are seen before the rules change: the switch counts what it does.
        let before = seen;
        let limit = Instant::now() + PATIENCE;
        loop {
            let counts = switch.counts(FIRST, SECOND);
            seen = counts.forwarded + counts.lost - counts.duplicated;
            if seen - before == 100 {
                break;
            }
            assert!(Instant::now() < limit, "{counts:?}");
            std::thread::yield_now();
        }
        // The one sent by `drain`.
        seen += 1;
        drain(&switch, FIRST, SECOND, &first, &second)
    };
    let received = send(Link { loss: 0.3, duplicate: 0.3, ..Link::default() });
    let counts = switch.counts(FIRST, SECOND);
    assert!(counts.lost > 0 && counts.duplicated > 0, "{counts:?}");
    assert_eq!(received.len() as u64, 100 - counts.lost + counts.duplicated);
    // The kernel notices a flipped bit by the checksum and drops the datagram.
    let received = send(Link { corrupt: 0.5, ..Link::default() });
    let corrupted = switch.counts(FIRST, SECOND).corrupted;
    assert!(corrupted > 0);
    assert_eq!(received.len() as u64, 100 - corrupted);
}

#[test]
fn frames_that_are_held_back_are_overtaken() {
    let Some(switch) = switch(2) else { return };
    let (first, second) = (udp(&switch, 0), udp(&switch, 1));
    switch.set(FIRST, SECOND, Link { reorder: 0.2, ..Link::default() });
    let mut received: Vec<u32> = Vec::new();
    for n in 0..100u32 {
        first.send_to(&n.to_le_bytes(), at(&second)).expect("send");
    }
    while received.len() < 100 {
        let mut buffer = [0; 4];
        second.recv(&mut buffer).expect("nothing is lost");
        received.push(u32::from_le_bytes(buffer));
    }
    assert!(!received.is_sorted());
    received.sort_unstable();
    assert!(received.into_iter().eq(0..100));
}

/// Round trips of 64 bytes over UDP, alone and many at once.
#[test]
#[ignore = "a measurement: cargo test --release -p faults --test real speed -- --ignored --nocapture"]
fn switch_speed() {
    let Some(switch) = switch(2) else { return };
    let (first, second) = (udp(&switch, 0), udp(&switch, 1));
    let local =
        [UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0")].map(|socket| socket.expect("bind"));
    for (name, a, b) in [("loopback", &local[0], &local[1]), ("switch", &first, &second)] {
        for window in [1, 32] {
            let mut took = Vec::new();
            let began = Instant::now();
            std::thread::scope(|scope| {
                let echo = scope.spawn(|| {
                    let mut buffer = [0; 64];
                    loop {
                        let (length, from) = b.recv_from(&mut buffer).expect("receive");
                        if length == 0 {
                            return;
                        }
                        b.send_to(&buffer[..length], from).expect("send");
                    }
                });
                let mut sent = std::collections::VecDeque::new();
                let mut buffer = [0; 64];
                while began.elapsed() < Duration::from_secs(3) {
                    while sent.len() < window {
                        sent.push_back(Instant::now());
                        a.send_to(&[1; 64], at(b)).expect("send");
                    }
                    a.recv(&mut buffer).expect("receive");
                    took.push(sent.pop_front().expect("one was sent").elapsed());
                }
                a.send_to(&[], at(b)).expect("send");
                echo.join().expect("echo");
            });
            a.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
            while a.recv(&mut [0; 64]).is_ok() {}
            a.set_read_timeout(None).expect("timeout");
            let packets = 2.0 * took.len() as f64 / 3.0;
            took.sort_unstable();
            let quantile = |share: f64| took[(took.len() as f64 * share) as usize];
            println!(
                "{name}, {window} at a time: {packets:.0} packets/s, round trip p50 {:?} p99 {:?}",
                quantile(0.5),
                quantile(0.99)
            );
        }
    }
}
