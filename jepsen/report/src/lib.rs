//! What runs of the proof showed: kept as records, told as one page, and a failing history as a timeline.
//!
//! | module | owns |
//! |---|---|
//! | `record` | what one run of one verb showed, and the files it is kept in |
//! | `goals` | what the figures of a record must reach |
//! | `page` | all records as one page |
//! | `timeline` | one failing history as a page |
//! | `html` | escaping, links, the frame of a page |
//! | `figure` | numbers, spans of time and dates as text |
//!
//! Only `record` touches files; the rest are functions from values to text, without a clock. Pages hold all they need:
//! they load nothing, and their own security policy forbids it. All text that comes from a run is escaped.
//! The binary `jepsen` is the caller; nothing here runs or judges anything.

mod figure;
pub mod goals;
mod html;
pub mod page;
pub mod record;
pub mod timeline;

pub use record::{FailureRef, Record, Row, State, Verb, load, save};
