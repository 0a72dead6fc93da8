//! Faults on real processes and on messages. Whatever breaks: no acknowledged report is lost, no order is executed twice,
//! no device has two active orders, every incident is in a legal state. The module's name puts its tests into nextest's
//! group that runs one at a time.
#![allow(clippy::expect_used, clippy::wildcard_enum_match_arm)]

mod clock_jump;
mod database;
mod deliveries;
mod in_process;
mod invariants;
mod kills;
mod messages;
mod processes;
mod promises;
mod rows;
