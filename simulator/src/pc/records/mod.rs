//! Windows' own records of a PC's install attempts, as files in its folder. Their content follows from the attempts in
//! the PC's log alone: what a crash kept from being written is written at the next start, byte for byte the same.

mod event_log;
mod reporting_events;

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{change::Attempt, log::LogError, profile::Profile};

/// `%SystemRoot%\SoftwareDistribution\ReportingEvents.log`
pub const REPORTING_EVENTS: &str = "ReportingEvents.log";
/// The System channel as `wevtutil` exports it: a stream of `<Event>`.
pub const SYSTEM: &str = "System.xml";
/// The Setup channel, likewise.
pub const SETUP: &str = "Setup.xml";

/// What an attempt adds to each file. Setup comes first: the servicing stack notes before the update client does.
fn render(profile: &Profile, number: u64, attempt: &Attempt) -> [(&'static str, Vec<u8>); 3] {
    [
        (SETUP, event_log::setup(profile, number, attempt).into_bytes()),
        (SYSTEM, event_log::system(profile, number, attempt).into_bytes()),
        (REPORTING_EVENTS, reporting_events::lines(profile, number, attempt)),
    ]
}

/// The record files' paths in a PC's folder.
#[must_use]
pub fn paths(dir: &Path) -> [PathBuf; 3] {
    [REPORTING_EVENTS, SYSTEM, SETUP].map(|name| dir.join(name))
}

/// Appends what attempt `number` (from 1) adds.
///
/// # Errors
/// [`LogError::Io`].
pub fn append(dir: &Path, profile: &Profile, number: u64, attempt: &Attempt) -> Result<(), LogError> {
    for (name, bytes) in render(profile, number, attempt) {
        write(&dir.join(name), &bytes)?;
    }
    Ok(())
}

/// Makes the files say all of `attempts`: adds what is missing at their ends.
///
/// # Errors
/// [`LogError::Io`].
pub fn complete<'a>(
    dir: &Path,
    profile: &Profile,
    attempts: impl Iterator<Item = &'a Attempt>,
) -> Result<(), LogError> {
    let mut files = [(REPORTING_EVENTS, reporting_events::BYTE_ORDER_MARK.to_vec()), (SYSTEM, vec![]), (SETUP, vec![])];
    for (number, attempt) in (1..).zip(attempts) {
        for (name, bytes) in render(profile, number, attempt) {
            files.iter_mut().filter(|file| file.0 == name).for_each(|file| file.1.extend_from_slice(&bytes));
        }
    }
    for (name, bytes) in files {
        let path = dir.join(name);
        let there = match std::fs::metadata(&path) {
            Ok(found) => usize::try_from(found.len()).unwrap_or(usize::MAX),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(source) => return Err(LogError::Io { doing: "look at", path, source }),
        };
        write(&path, bytes.get(there..).unwrap_or_default())?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    let io = |source| LogError::Io { doing: "write", path: path.to_owned(), source };
    let mut file = OpenOptions::new().append(true).create(true).open(path).map_err(io)?;
    file.write_all(bytes).map_err(io)
}
