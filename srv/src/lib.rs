//! DNS SRV records: which hosts and ports offer a service of a domain.
//!
//! The question is asked by the system's resolver, of the servers that this machine is configured to ask; the answer is
//! taken apart by `simple-dns`. Used by members that discover each other and by clients that discover members.

use std::ffi::{CString, c_char, c_int};

use simple_dns::{Name, Packet, rdata::RData};

/// Longest answer that DNS has.
const MAX_ANSWER_BYTES: usize = 65_535;
const INTERNET: c_int = 1;
const SRV: c_int = 33;
/// Values of `h_errno`, of `netdb.h`.
const TRY_AGAIN: c_int = 2;
const NO_RECOVERY: c_int = 3;

/// Hosts, without a dot at the end, and ports of `_<service>._tcp.<domain>`, in the search domains too, by priority.
/// Blocks.
pub fn look_up(service: &str, domain: &str) -> Result<Vec<(String, u16)>, String> {
    let name = format!("_{service}._tcp.{domain}");
    let found = ask(&name).and_then(|answer| records(&answer));
    found.map_err(|error| format!("lookup {name}: {error}"))
}

fn ask(name: &str) -> Result<Vec<u8>, String> {
    #[link(name = "resolv")]
    unsafe extern "C" {
        fn res_search(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, len: c_int) -> c_int;
        /// Where this thread's `h_errno` is.
        fn __h_errno_location() -> *mut c_int;
    }
    // There can be none with such a name.
    Name::new(name.trim_end_matches('.')).map_err(|_| "no such host")?;
    let name = CString::new(name).map_err(|_| "no such host")?;
    let mut answer = vec![0; MAX_ANSWER_BYTES];
    // SAFETY: the name ends in a zero, and `answer` has the length that is told.
    let len = unsafe { res_search(name.as_ptr(), INTERNET, SRV, answer.as_mut_ptr(), answer.len() as c_int) };
    match usize::try_from(len) {
        Ok(len) => {
            // Larger than the buffer if the answer was cut off.
            answer.truncate(len);
            Ok(answer)
        }
        // SAFETY: a number of this thread, which lives as long as the thread.
        Err(_) => Err(match unsafe { *__h_errno_location() } {
            TRY_AGAIN => "the server failed or gave no answer in time".into(),
            NO_RECOVERY => "the server refused".into(),
            _ => "no such host".into(),
        }),
    }
}

/// Hosts and ports of a name server's answer, as `look_up` has them.
pub fn records(answer: &[u8]) -> Result<Vec<(String, u16)>, String> {
    let packet = Packet::parse(answer).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for record in &packet.answers {
        let RData::SRV(srv) = &record.rdata else { continue };
        let target = srv.target.to_string().trim_end_matches('.').to_owned();
        // The root as target: the service is not offered.
        if !target.is_empty() {
            found.push((srv.priority, target, srv.port));
        }
    }
    found.sort_by_key(|(priority, ..)| *priority);
    Ok(found.into_iter().map(|(_, target, port)| (target, port)).collect())
}

#[cfg(test)]
mod tests {
    use simple_dns::{CLASS, ResourceRecord, rdata};

    use super::*;

    #[test]
    fn hosts_come_by_priority_and_other_records_are_passed_over() {
        let name = Name::new_unchecked("_etcd-client._tcp.example.com");
        let mut packet = Packet::new_reply(7);
        let mut add = |data| packet.answers.push(ResourceRecord::new(name.clone(), CLASS::IN, 60, data));
        add(RData::A(rdata::A { address: 1 }));
        for (priority, host, port) in [(2, "b.example.com", 1), (1, "a.example.com", 2379), (0, "", 0)] {
            let target = Name::new_unchecked(host);
            add(RData::SRV(rdata::SRV { priority, weight: 0, port, target }));
        }
        let bytes = packet.build_bytes_vec_compressed().unwrap();
        let expected = [("a.example.com".to_owned(), 2379), ("b.example.com".to_owned(), 1)];
        assert_eq!(records(&bytes).unwrap(), expected);
        for len in 0..bytes.len() {
            // Whatever comes, it does not panic.
            let _ = records(&bytes[..len]);
        }
    }

    #[test]
    fn a_name_that_cannot_be_asked_for_is_an_error() {
        assert!(look_up("etcd-client", "a\0b").unwrap_err().contains("no such host"));
    }
}
