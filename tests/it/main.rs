//! The one integration-test binary: a module a theme, so that the workspace links once.

mod drawing;
mod flow;
mod scenarios;
mod store;
