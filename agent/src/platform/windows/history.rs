//! The update client's own history as a record file: entries of the last 30 days that are new, one a line.
//!
//! The history pages from the newest entry on; asking for none or from before the first is an error of its own
//! (0x80240007), so an empty one is not asked. Not tried on real Windows: whether an entry's time is when its install ended.
//! Check: compare `Get-WinEvent` of event 19 with `QueryHistory` for one update.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::TimeDelta;
use fleetmend_proto::{HResult, clock::wall_now};
use windows::Win32::System::UpdateAgent::{IUpdateHistoryEntry, IUpdateSearcher};

use super::{com, error::failed, events, updates};
use crate::{
    detect::update_history::{Entry, Src, from_ole},
    platform::{PlatformError, Result},
};

/// The client may hang while its store is rebuilt.
const WATCHDOG: Duration = Duration::from_secs(5 * 60);
const PAGE: i32 = 50;
/// Entries of one look; definitions alone come several times a day.
const MOST: i32 = 1000;
const WHAT: &str = "the update history";

/// Entries of the last 30 days, newest first.
pub(super) async fn read() -> Result<Vec<String>> {
    com::call(WHAT, WATCHDOG, || {
        let entries = entries().map_err(|error| failed(WHAT, &error))?;
        Ok(entries.iter().filter_map(|entry| serde_json::to_string(entry).ok()).collect())
    })
    .await
}

/// Adds what is new to the record file and gives its path.
pub(super) fn export(folder: &Path, entries: &[String]) -> Result<PathBuf> {
    let file = folder.join("history.jsonl");
    let io = |source| PlatformError::Io { what: format!("storing {WHAT}"), source };
    let known = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(io(error)),
    };
    let known: HashSet<&str> = known.lines().collect();
    let fresh: Vec<&str> = entries.iter().rev().map(String::as_str).filter(|entry| !known.contains(entry)).collect();
    if !fresh.is_empty() {
        events::append(&file, fresh.into_iter()).map_err(io)?;
    }
    Ok(file)
}

fn entries() -> windows::core::Result<Vec<Entry>> {
    let since = wall_now() - TimeDelta::days(30);
    // SAFETY: the thread is in an apartment (`com::call`); the objects are alive while they are used.
    let (searcher, count) = unsafe {
        let searcher: IUpdateSearcher = updates::session(None)?.CreateUpdateSearcher()?;
        let count = searcher.GetTotalHistoryCount()?;
        (searcher, count.min(MOST))
    };
    let mut found = Vec::new();
    let mut from = 0;
    while from < count {
        // SAFETY: as above; the page is not empty and does not begin before the first entry.
        let page = unsafe { searcher.QueryHistory(from, PAGE.min(count - from))? };
        // SAFETY: as above.
        let length = unsafe { page.Count()? };
        for index in 0..length {
            // SAFETY: as above.
            let entry = unsafe { page.get_Item(index).and_then(|it| read_entry(&it))? };
            let Some(entry) = entry else { continue };
            if entry.date_utc < since {
                return Ok(found);
            }
            found.push(entry);
        }
        if length == 0 {
            break;
        }
        from += length;
    }
    Ok(found)
}

/// `None`: it has no date.
///
/// # Safety
/// Called in an apartment.
unsafe fn read_entry(entry: &IUpdateHistoryEntry) -> windows::core::Result<Option<Entry>> {
    // SAFETY: the caller's.
    unsafe {
        let Some(date_utc) = from_ole(entry.Date()?) else { return Ok(None) };
        let identity = entry.UpdateIdentity()?;
        let code = |it: i32| HResult(it.cast_unsigned());
        Ok(Some(Entry {
            src: Src::WuaHistory,
            op: entry.Operation()?.0,
            result: entry.ResultCode()?.0,
            hresult: code(entry.HResult()?),
            unmapped: code(entry.UnmappedResultCode()?),
            date_utc,
            update_id: identity.UpdateID()?.to_string(),
            revision: identity.RevisionNumber()?,
            title: entry.Title()?.to_string(),
            client: entry.ClientApplicationID()?.to_string(),
            service_id: entry.ServiceID()?.to_string(),
        }))
    }
}
