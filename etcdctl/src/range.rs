//! Ends of ranges, as commands make them and printers recognize them.

/// The range end that stands for "to the last key".
pub const OPEN: &[u8] = b"\0";

/// The first key past all that start with `prefix`: its last byte below 0xff, one up, and nothing after it.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|&byte| byte < 0xff) {
        Some(at) => {
            let mut end = prefix[..=at].to_vec();
            end[at] += 1;
            end
        }
        None => OPEN.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_prefixes() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), OPEN);
    }
}
