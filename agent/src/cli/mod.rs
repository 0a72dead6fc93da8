//! One file a subcommand of `fleetmend-agent`. Each reads its arguments, calls the library and chooses the exit code.

pub mod detect;
