//! Versions of clusters and of stored data: major and minor.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u64,
    pub minor: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// Of `X.Y`, or of the beginning of `X.Y.Z`.
    pub fn parse(text: &str) -> Option<Version> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        Some(Version { major: parts.next()??, minor: parts.next()?? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_minor_does_not_matter() {
        for text in ["3.6", "3.6.0", "3.6.0-alpha.0"] {
            assert_eq!(Version::parse(text).unwrap().to_string(), "3.6");
        }
        for bad in ["", "3", "3.", "3.x", "3.-6"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }
}
