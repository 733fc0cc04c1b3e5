//! Answers of name servers, which come over an open network.

/// One answer to a question for SRV records.
pub fn answer(data: &[u8]) {
    let Ok(found) = ::srv::records(data) else { return };
    // The root as target says that there is none.
    assert!(found.iter().all(|(host, _)| !host.is_empty()));
    assert!(found.len() <= data.len(), "more records than bytes");
}

/// `_etcd-client._tcp.a.` asked for, and two hosts; a name whose pointer is to itself.
pub fn answer_seeds() -> Vec<Vec<u8>> {
    let mut two = vec![0, 7, 0x84, 0, 0, 1, 0, 2, 0, 0, 0, 0];
    two.extend(b"\x0c_etcd-client\x04_tcp\x01a\x00\x00\x21\x00\x01");
    for (priority, host) in [(2, b"\x01b"), (1, b"\x01c")] {
        two.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 10, 0, priority, 0, 0, 9, 75]);
        two.extend(host);
        two.extend([0xc0, 30]);
    }
    let looped = [&[0, 7, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0][..], &[0xc0, 12, 0, 33, 0, 1]].concat();
    vec![two, looped]
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_are_answers() {
        let expected = [("c.a".to_owned(), 2379), ("b.a".to_owned(), 2379)];
        assert_eq!(::srv::records(&super::answer_seeds()[0]).unwrap(), expected);
        assert!(::srv::records(&super::answer_seeds()[1]).is_err());
    }
}
