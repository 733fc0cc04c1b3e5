//! What our etcdctl says before it asks any server: refusals and warnings.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::TcpListener;
use std::process::{Command, Stdio};

/// Standard error and the exit code of a command that must print nothing else.
fn refused(args: &[&str], environment: &[(&str, &str)]) -> (String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_etcdctl"))
        .env_clear()
        .envs(environment.iter().copied())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.stdout.is_empty(), "{output:?}");
    (String::from_utf8(output.stderr).unwrap(), output.status.code())
}

#[test]
fn discovery() {
    // Too long to be asked for anywhere.
    let domain = "a".repeat(64);
    let failed = |suffix: &str, insecure: &str| {
        let secure = format!("lookup _etcd-client-ssl{suffix}._tcp.{domain}: no such host");
        (format!("Error: dns lookup errors: {secure} and {insecure}\n"), Some(1))
    };
    let plain = format!("lookup _etcd-client._tcp.{domain}: no such host");
    assert_eq!(refused(&["get", "a", "--discovery-srv", &domain], &[]), failed("", &plain));
    assert_eq!(refused(&["get", "a"], &[("ETCDCTL_DISCOVERY_SRV", &domain)]), failed("", &plain));
    let args = ["-d", &domain, "--discovery-srv-name=x", "--insecure-discovery=false", "endpoint", "health"];
    let plain = format!("lookup _etcd-client-x._tcp.{domain}: no such host");
    assert_eq!(refused(&args, &[]), failed("-x", &plain));
}

#[test]
fn files_of_snapshots() {
    for command in ["status", "restore"] {
        let text = format!(
            "Error: `snapshot {command}` reads a file, not a cluster: use `etcdutl snapshot {command}`\n"
        );
        assert_eq!(refused(&["snapshot", command, "file"], &[]), (text, Some(4)));
    }
}

#[test]
fn del_of_a_range_can_be_interrupted() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = server.local_addr().unwrap().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_etcdctl"))
        .env_clear()
        .args(["del", "a", "b\n", "--endpoints", &endpoint])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut warning = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut warning).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let expected = "Warning: Keys between \"a\" and \"b\\n\" will be deleted. Please interrupt the command within \
                    next 2 seconds to cancel. You can provide `--range` flag to avoid the delay.\n";
    assert_eq!(warning, expected);
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "asked before the pause was over");
}

#[test]
fn del_range_does_not_wait() {
    let args = ["del", "a", "b", "--range", "--endpoints", "127.0.0.1:1", "--command-timeout", "1ms"];
    let (text, code) = refused(&args, &[]);
    // Whether it had time to say why it could not connect is another matter.
    assert_eq!((text.lines().last(), code), (Some("Error: context deadline exceeded"), Some(1)));
}

#[test]
fn the_v2_api() {
    let text = "unsupported API version: 2\n";
    assert_eq!(refused(&["get", "a"], &[("ETCDCTL_API", "2")]), (text.into(), Some(1)));
}
