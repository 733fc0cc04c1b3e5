//! What can be wrong with a file that is read, and with what a writer is given.

use std::{error::Error, fmt, io};

use crate::meta::MetaFault;

/// Why a file could not be read. Every variant but `Io` is about the bytes: reading again changes nothing.
#[derive(Debug)]
pub enum ReadError {
    Io(io::Error),
    /// Neither meta page can be used.
    Metas {
        first: MetaFault,
        second: MetaFault,
    },
    /// The file ends before its last page.
    CutOff {
        size_bytes: u64,
        needed_bytes: u64,
    },
    /// A page holds what none can hold.
    Page {
        id: u64,
        what: String,
    },
}

impl ReadError {
    pub(crate) fn page(id: u64, what: impl Into<String>) -> ReadError {
        ReadError::Page { id, what: what.into() }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io(error) => error.fmt(f),
            ReadError::Metas { first, second } => {
                write!(f, "not a bbolt file, or damaged: first meta: {first}; second meta: {second}")
            }
            ReadError::CutOff { size_bytes, needed_bytes } => {
                write!(f, "the file is cut off: it has {size_bytes} bytes, its pages need {needed_bytes}")
            }
            ReadError::Page { id, what } => write!(f, "page {id}: {what}"),
        }
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ReadError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        ReadError::Io(error)
    }
}

/// Why a file could not be written. After any of these what has been written is no file.
#[derive(Debug)]
pub enum WriteError {
    Io(io::Error),
    /// Not a power of two from 512 to 65,536.
    PageSize(usize),
    /// A key or bucket name that is not above the one before it.
    Order {
        key: Vec<u8>,
    },
    /// A key or bucket name of no bytes, or of more than `MAX_KEY_BYTES`.
    KeyLength(usize),
    /// A value of more than `MAX_VALUE_BYTES`.
    ValueLength(usize),
    /// An entry before the first bucket.
    NoBucket,
    /// The second pass had other entries than the first.
    NotAsPlanned,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Io(error) => error.fmt(f),
            WriteError::PageSize(size) => {
                write!(f, "page size {size} is not a power of two from 512 to 65536")
            }
            WriteError::Order { key } => {
                write!(f, "\"{}\" is not above the key before it", key.escape_ascii())
            }
            WriteError::KeyLength(len) => {
                write!(f, "a key of {len} bytes: from 1 to {} are allowed", crate::MAX_KEY_BYTES)
            }
            WriteError::ValueLength(len) => {
                write!(f, "a value of {len} bytes: at most {} are allowed", crate::MAX_VALUE_BYTES)
            }
            WriteError::NoBucket => f.write_str("an entry before the first bucket"),
            WriteError::NotAsPlanned => {
                f.write_str("the entries are not those that the file was planned for")
            }
        }
    }
}

impl Error for WriteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            WriteError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> WriteError {
        WriteError::Io(error)
    }
}
