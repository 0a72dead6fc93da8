//! The JSON of the API, one file a noun. Server and command line share these types; names are the project's words, times
//! RFC 3339 in UTC.

pub mod device;
pub mod incident;
pub mod order;
pub mod summary;
pub mod timeline;

use serde::{Deserialize, Serialize};

use crate::store;

/// Body of the requests that may say why.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reason {
    pub reason: String,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Give it as `cursor` to get what follows; null = this was the last page.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The store's page, row by row as `view` shows it.
    #[must_use]
    pub fn new<R>(page: store::Page<R>, view: impl FnMut(R) -> T) -> Self {
        Self { items: page.items.into_iter().map(view).collect(), next_cursor: page.next }
    }
}
