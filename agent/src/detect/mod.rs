//! Detection: outcomes of update attempts from Windows' own records, as Windows writes them.
//!
//! [`Detector`] reads on from stored cursors for the running agent; [`outcomes_in`] reads a folder of collected logs.
//! Both tell files by content and share all of the reading: `cursor` cuts a piece of a file, `text` makes it UTF-8,
//! `scan` finds lines and events, `reporting_events` and `event_xml` read one each, `merge` makes outcomes of records.
//! Nothing here writes, asks the operating system, or judges what an outcome means.

pub mod codes;
pub mod cursor;
pub mod detector;
pub mod event_xml;
pub mod folder;
pub mod merge;
pub mod naming;
pub mod record;
pub mod reporting_events;
pub mod scan;
pub mod text;
pub mod update_history;

pub use cursor::Cursor;
pub use detector::{Detector, Found, SETTLE};
pub use folder::{Collected, FolderError, outcomes_in};
pub use record::{Identity, Problem};
