//! Records, the page and timelines, on histories that the model made.
//!
//! | module | owns |
//! |---|---|
//! | `make` | histories, valid or with one stale read |
//! | `records` | what is saved is loaded; what is broken is named |
//! | `pages` | the page tells all that the records hold |
//! | `timelines` | what is shown of a history, and how large it may get |

mod make;
mod pages;
mod records;
mod timelines;

/// Whether `text` holds each of `parts`; the panic names the first that is missing.
fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing");
    }
}
