//! Windows' event log as record files: new events are rendered as XML, one a line, into files of the data folder, and the
//! detector reads those like any exported log.
//!
//! A position (the last record number) is stored after the events it covers: a crash in between brings events twice, and
//! the detector knows them again by their content. Not tried on real Windows: the channels' rights for a service. Check:
//! `wevtutil qe System /c:1 /q:"*[System[Provider[@Name='Microsoft-Windows-WindowsUpdateClient']]]"`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use windows::{
    Win32::{
        Foundation::{ERROR_INSUFFICIENT_BUFFER, ERROR_NO_MORE_ITEMS},
        System::EventLog::{
            EVT_HANDLE, EvtClose, EvtNext, EvtQuery, EvtQueryChannelPath, EvtQueryForwardDirection,
            EvtQueryReverseDirection, EvtRender, EvtRenderEventXml,
        },
    },
    core::HSTRING,
};

use super::error::failed;
use crate::platform::{PlatformError, Result};

/// A channel, the file its events go to, and the provider whose events are wanted.
pub(super) const CHANNELS: [(&str, &str, &str); 3] = [
    ("System", "system", "Microsoft-Windows-WindowsUpdateClient"),
    ("Microsoft-Windows-WindowsUpdateClient/Operational", "operational", "Microsoft-Windows-WindowsUpdateClient"),
    ("Setup", "setup", "Microsoft-Windows-Servicing"),
];
/// How far back the first reading goes: 30 days, in milliseconds.
const FIRST: u64 = 30 * 24 * 60 * 60 * 1000;
/// A file that grew longer is begun anew with its last events, which the detector has read already.
const FILE: u64 = 4 * 1024 * 1024;
const KEPT: usize = 200;
/// Events of one pass; the next pass goes on.
const PASS: usize = 5000;
const BATCH: usize = 64;

/// Brings the file of one channel up to date and gives its path.
pub(super) fn export(folder: &Path, channel: &str, name: &str, provider: &str) -> Result<PathBuf> {
    let file = folder.join(format!("{name}.xml"));
    let position = folder.join(format!("{name}.position"));
    let io = |source| PlatformError::Io { what: format!("storing events of {channel}"), source };
    let after = match fs::read_to_string(&position) {
        Ok(text) => text.trim().parse::<u64>().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io(error)),
    };
    let mut events = query(channel, provider, after, Order::OldestFirst)?;
    // A cleared log begins at 1 again: everything in it is new then.
    if events.is_empty() && is_cleared(channel, provider, after)? {
        events = query(channel, provider, None, Order::OldestFirst)?;
    }
    if !events.is_empty() {
        append(&file, events.iter().map(|(_, event)| event.as_str())).map_err(io)?;
        let last = events.iter().map(|(record, _)| *record).max().unwrap_or_default();
        fs::write(&position, last.to_string()).map_err(io)?;
    }
    Ok(file)
}

/// Whether the newest event comes before the position.
fn is_cleared(channel: &str, provider: &str, after: Option<u64>) -> Result<bool> {
    let Some(after) = after else { return Ok(false) };
    let newest = query(channel, provider, None, Order::Newest)?;
    Ok(newest.first().is_some_and(|(record, _)| *record < after))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    OldestFirst,
    /// One only.
    Newest,
}

/// Adds records to a file of ours, one a line.
pub(super) fn append<'a>(file: &Path, records: impl Iterator<Item = &'a str>) -> io::Result<()> {
    if fs::metadata(file).is_ok_and(|it| it.len() > FILE) {
        let text = fs::read_to_string(file)?;
        let lines: Vec<&str> = text.lines().collect();
        let kept = lines.get(lines.len().saturating_sub(KEPT)..).unwrap_or_default().join("\n");
        let fresh = file.with_extension("new");
        fs::write(&fresh, kept + "\n")?;
        fs::rename(&fresh, file)?;
    }
    let mut text = String::new();
    for record in records {
        text.extend(record.chars().map(|c| if c == '\r' || c == '\n' { ' ' } else { c }));
        text.push('\n');
    }
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// Closed when dropped.
struct Handle(EVT_HANDLE);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and is closed once.
        let _ = unsafe { EvtClose(self.0) };
    }
}

/// Record number and XML of the provider's events.
fn query(channel: &str, provider: &str, after: Option<u64>, order: Order) -> Result<Vec<(u64, String)>> {
    let which = match after {
        Some(record) => format!("EventRecordID > {record}"),
        None => format!("TimeCreated[timediff(@SystemTime) <= {FIRST}]"),
    };
    let path = format!("*[System[Provider[@Name='{provider}'] and {which}]]");
    let error = |error: &windows::core::Error| failed(format!("event log {channel}"), error);
    let (direction, limit, batch_size) = match order {
        Order::OldestFirst => (EvtQueryForwardDirection, PASS, BATCH),
        Order::Newest => (EvtQueryReverseDirection, 1, 1),
    };
    let flags = EvtQueryChannelPath.0 | direction.0;
    // SAFETY: both texts end with a zero.
    let found = unsafe { EvtQuery(None, &HSTRING::from(channel), &HSTRING::from(path), flags) };
    let found = Handle(found.map_err(|it| error(&it))?);
    let mut events = Vec::new();
    while events.len() < limit {
        let mut batch = vec![0isize; batch_size];
        let mut count = 0;
        // SAFETY: the query is open, `batch` is as long as said.
        match unsafe { EvtNext(found.0, &mut batch, 5000, 0, &raw mut count) } {
            Ok(()) => {}
            Err(it) if it.code() == ERROR_NO_MORE_ITEMS.to_hresult() => break,
            Err(it) => return Err(error(&it)),
        }
        let count = usize::try_from(count).unwrap_or_default();
        let handles: Vec<Handle> = batch.iter().take(count).map(|it| Handle(EVT_HANDLE(*it))).collect();
        if handles.is_empty() {
            break;
        }
        for event in &handles {
            let xml = render(event).map_err(|it| error(&it))?;
            events.push((record_number(&xml), xml));
        }
    }
    Ok(events)
}

fn render(event: &Handle) -> windows::core::Result<String> {
    let mut buffer = vec![0u16; 4096];
    loop {
        let (mut used, mut properties) = (0, 0);
        let bytes = u32::try_from(buffer.len() * 2).unwrap_or(u32::MAX);
        let into = Some(buffer.as_mut_ptr().cast());
        // SAFETY: the event is open, the buffer is as long as said.
        let rendered =
            unsafe { EvtRender(None, event.0, EvtRenderEventXml.0, bytes, into, &raw mut used, &raw mut properties) };
        let units = usize::try_from(used).unwrap_or_default() / 2;
        match rendered {
            Ok(()) => {
                let text = String::from_utf16_lossy(buffer.get(..units).unwrap_or_default());
                return Ok(text.trim_end_matches('\0').to_owned());
            }
            Err(error) if error.code() == ERROR_INSUFFICIENT_BUFFER.to_hresult() && units > buffer.len() => {
                buffer.resize(units, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

fn record_number(xml: &str) -> u64 {
    let number = xml.split_once("<EventRecordID>").and_then(|(_, rest)| rest.split_once('<'));
    number.and_then(|(number, _)| number.trim().parse().ok()).unwrap_or_default()
}
