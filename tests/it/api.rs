//! The operators' API against a real store, and the command line against the API.

mod cli;
mod fixture;
mod policy;
mod requests;
mod story;
