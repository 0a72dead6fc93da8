//! The operators' API against a real store, and the command line against the API.

mod cli;
pub mod fixture;
mod policy;
mod requests;
mod story;
