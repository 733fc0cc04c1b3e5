//! What is left of the faults when the process that made them is killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use faults::forgetfs::{self, ForgetFs, Options};
use faults::switch::{self, Switch};

use crate::can;

/// Not a test: what the test below kills.
#[test]
#[ignore = "run by the other test"]
fn helper() {
    let Some(at) = std::env::var_os("FAULTS_HELPER_MOUNT") else { return };
    if std::env::var_os("FAULTS_HELPER_PRIVATE").is_some() {
        forgetfs::private_mounts().expect("root");
    }
    let disk = ForgetFs::mount(Path::new(&at), Options::default()).expect("mount");
    let switch = Switch::new(2, 1).expect("a switch");
    println!("ready {}", switch.client_address());
    // Until it is killed, or its starter is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(disk);
}

/// Starts the helper, waits until it has everything and kills it. Returns the address that its clients had.
fn killed(at: &Path, private: bool) -> Ipv4Addr {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["killed::helper", "--exact", "--ignored", "--nocapture"]).env("FAULTS_HELPER_MOUNT", at);
    if private {
        command.env("FAULTS_HELPER_PRIVATE", "1");
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let ready = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("ready ").and_then(|(_, address)| address.parse().ok()));
    child.kill().expect("it runs");
    child.wait().expect("a child");
    ready.expect("it made everything")
}

fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    mounts.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}

#[test]
fn nothing_is_left_but_a_dead_mount() {
    if !can(forgetfs::available().and_then(|()| switch::available())) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    for private in [true, false] {
        let address = killed(dir.path(), private);
        let limit = Instant::now() + Duration::from_secs(20);
        while UdpSocket::bind((address, 0)).is_ok() {
            assert!(Instant::now() < limit, "the interface is still there");
            std::thread::yield_now();
        }
        assert_eq!(is_mounted(dir.path()), !private);
    }
    let disk = ForgetFs::mount(dir.path(), Options::default()).expect("over the dead one");
    fs::write(dir.path().join("a"), "x").expect("write");
    disk.unmount().expect("unmount");
    assert!(!is_mounted(dir.path()), "neither is left");
}
