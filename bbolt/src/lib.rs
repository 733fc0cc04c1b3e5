//! bbolt files, the format of etcd's database: a B+ tree of pages in which values may be buckets, trees of their own.
//!
//! `Database` reads a file, or any bytes, that may be damaged or hostile: what is read is checked before it is handed
//! out, memory is that of the path from the root to one leaf, nothing panics or goes on for ever. `Writer` makes a
//! whole file in one pass, for a stream after a first pass over sizes (`Planner`). Files are never changed in place,
//! and none is locked: who opens the file of a server that may run takes its `flock` first.
//! Nothing here knows what etcd keeps in its buckets. `digest` has the two checksums that etcd takes of such files.
//!
//! All numbers are little endian, as on every machine that etcd supports. A file is a sequence of pages of equal size,
//! numbered from 0; one that is too small for its contents has the following ones as its overflow.
//!
//! | bytes of a page | what |
//! |---|---|
//! | 0–7 | its number; 0 in an inline bucket |
//! | 8–9 | kind: 1 branch, 2 leaf, 4 meta, 0x10 free list |
//! | 10–11 | number of elements |
//! | 12–15 | number of overflow pages |
//! | then, branch | elements: `pos` u32, key length u32, child's page u64 |
//! | then, leaf | elements: flags u32 (1: the value is a bucket), `pos` u32, key length u32, value length u32 |
//! | then, free list | page numbers u64, sorted; if the number of elements is 0xFFFF, the first is the number |
//! | then | keys and values; `pos` counts from the element's own first byte to its key, which its value follows |
//!
//! A bucket as a value: page of its root u64, sequence u64; root 0 is an inline bucket, whose only page, a leaf, comes
//! next. Pages 0 and 1 are metas (`meta.rs`), of which the newest undamaged one says where the root bucket is. A key in
//! a branch is the first key of its child. Reference: etcd-io/bbolt, `internal/common`, `node.go`, `bucket.go`.

mod bitmap;
mod check;
mod cursor;
mod database;
pub mod digest;
mod error;
mod meta;
mod node;
mod page;
mod source;
mod writer;

pub use check::Usage;
pub use cursor::{Cursor, Entry, Value};
pub use database::{Bucket, Database};
pub use error::{ReadError, WriteError};
pub use meta::{Meta, NO_FREELIST};
pub use source::ReadAt;
pub use writer::{Plan, Planner, Writer};

/// Page size of files that etcd writes on nearly every machine.
pub const PAGE_SIZE: usize = 4096;
/// Longest key and bucket name, in bytes.
pub const MAX_KEY_BYTES: usize = 32_768;
/// Longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = (1 << 31) - 2;
