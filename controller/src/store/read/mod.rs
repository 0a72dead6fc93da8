//! What the API reads: lists by page, and an incident's whole story. Nothing here writes.

mod conditions;
mod incidents;
mod orders;
mod page;
mod timeline;

pub use incidents::IncidentFilter;
pub use orders::OrderFilter;
pub use page::{DEFAULT_LIMIT, MAX_LIMIT, Page, PageRequest};
pub use timeline::{Moment, MomentKind, Timeline};
