//! Windows' own log files that are read as they are: `ReportingEvents.log` for detection, `CBS.log` for what servicing did.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use super::{
    error::unavailable,
    files::{update_folder, windows_folder},
};
use crate::platform::{PlatformError, Result};

/// Most bytes of the servicing log that are taken at once: its end says how things went.
const MOST: u64 = 32 * 1024 * 1024;

pub(super) fn reporting_events() -> PathBuf {
    update_folder().join("ReportingEvents.log")
}

/// Where the servicing log ends now, in bytes; nothing where there is no log yet.
pub(super) fn servicing_end() -> Result<u64> {
    Ok(open()?.map(|(_, length)| length).unwrap_or_default())
}

/// The servicing log from `from` to its end; all of it where it is shorter than that, as it was begun anew.
pub(super) fn servicing(from: u64) -> Result<Vec<u8>> {
    let Some((mut file, length)) = open()? else {
        return Err(unavailable("the servicing log", format!("there is no {}", path().display())));
    };
    let from = if from > length { 0 } else { from };
    let from = from.max(length.saturating_sub(MOST));
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(from)).and_then(|_| file.take(MOST).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(io_error)
}

fn path() -> PathBuf {
    windows_folder().join(r"Logs\CBS\CBS.log")
}

/// Opened so that servicing can go on writing and rotating it.
fn open() -> Result<Option<(File, u64)>> {
    match File::open(path()).and_then(|file| file.metadata().map(|it| (file, it.len()))) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(error)),
    }
}

fn io_error(source: io::Error) -> PlatformError {
    PlatformError::Io { what: format!("reading {}", path().display()), source }
}
