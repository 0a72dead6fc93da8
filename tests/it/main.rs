//! The one integration-test binary: a module a theme, so that the workspace links once.

mod agents;
mod api;
mod drawing;
mod faults;
mod flow;
mod limits;
mod replaced;
mod scenarios;
mod start;
mod store;
