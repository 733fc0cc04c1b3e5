//! Which keys a command means: `KEY`, `KEY RANGE_END`, `--prefix` or `--from-key`, as `get` and `del` share them.

use bytes::Bytes;

use crate::cli::Flags;
use crate::cli::flags::Word;
use crate::exit::Exit;
use crate::range::{OPEN, prefix_end};

/// A key and the end of its range: empty for one key, a zero byte for no end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    pub key: Bytes,
    pub range_end: Bytes,
}

impl Keys {
    pub fn new(args: &[Word], flags: &Flags) -> Result<Self, Exit> {
        let (prefix, from_key) = (flags.bool("prefix"), flags.bool("from-key"));
        let mut key = args[0].clone();
        if args.len() > 1 && (prefix || from_key) {
            let message =
                "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";
            return Err(Exit::bad_args(message));
        }
        let mut range_end = args.get(1).cloned().unwrap_or_default();
        if prefix || from_key {
            range_end = if prefix && !key.is_empty() { prefix_end(&key) } else { OPEN.to_vec() };
            if key.is_empty() {
                key = OPEN.to_vec();
            }
        }
        Ok(Self { key: key.into(), range_end: range_end.into() })
    }

    /// Every key that starts with `prefix`, which may be empty.
    pub fn with_prefix(prefix: &[u8]) -> Self {
        match prefix {
            [] => Self { key: Bytes::from_static(OPEN), range_end: Bytes::from_static(OPEN) },
            _ => Self { key: prefix.to_vec().into(), range_end: prefix_end(prefix).into() },
        }
    }
}

pub fn refuse_both_ranges(flags: &Flags) -> Result<(), Exit> {
    if flags.bool("prefix") && flags.bool("from-key") {
        let message = "`--prefix` and `--from-key` cannot be set at the same time, choose one";
        return Err(Exit::bad_args(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_prefix_is_everything() {
        assert_eq!(Keys::with_prefix(b"").key, OPEN);
    }
}
