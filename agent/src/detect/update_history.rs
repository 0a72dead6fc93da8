//! One entry of the update client's own history (`IUpdateHistoryEntry`), as a line of JSON. Pure: the Windows platform
//! writes such lines from COM, `scan` finds them, this reads them back.
//!
//! The history names the code that the update's own installer gave (`UnmappedResultCode`) beside the one shown to people;
//! where the latter only wraps it, the former is what was recorded. It is emptied with the client's data store.

use chrono::{DateTime, Utc};
use fleetmend_proto::{HResult, Operation, OutcomeResult};
use serde::{Deserialize, Serialize};

use super::{
    codes,
    naming::{clean_title, kb_of},
    record::{BadRecord, Identity, Mark, Record, Stream, guid, stored},
};

/// How every line begins.
const START: &str = "{\"src\":\"wua_history\"";

/// An entry as it is written. Numbers are those of the update client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub src: Src,
    /// 1 install, 2 uninstall.
    pub op: i32,
    /// 0 not started, 1 in progress, 2 succeeded, 3 succeeded with errors, 4 failed, 5 aborted.
    pub result: i32,
    pub hresult: HResult,
    pub unmapped: HResult,
    pub date_utc: DateTime<Utc>,
    pub update_id: String,
    pub revision: i32,
    /// Localised.
    pub title: String,
    /// Who asked for it.
    pub client: String,
    pub service_id: String,
}

/// Tells such a line from any other JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Src {
    #[serde(rename = "wua_history")]
    WuaHistory,
}

/// Reads one line, without its line end. `Ok(None)`: an attempt that has not ended, or another operation.
///
/// # Errors
/// What in the line cannot be understood.
pub fn parse(line: &str) -> Result<Option<Record>, BadRecord> {
    let entry: Entry =
        serde_json::from_str(line).map_err(|_| BadRecord::field("line", line, "an entry of the update history"))?;
    let operation = match entry.op {
        1 => Operation::Install,
        2 => Operation::Uninstall,
        _ => return Ok(None),
    };
    let result = match entry.result {
        2 if entry.hresult == codes::REBOOT_REQUIRED => OutcomeResult::PendingReboot,
        2 => OutcomeResult::Succeeded,
        3 => OutcomeResult::SucceededWithErrors,
        4 => OutcomeResult::Failed,
        5 => OutcomeResult::Aborted,
        _ => return Ok(None),
    };
    let title = clean_title(&entry.title);
    let (update_id, kb) = (guid("update_id", &entry.update_id)?, kb_of(&title));
    if update_id.is_none() && kb.is_none() {
        return Err(BadRecord::NoUpdate);
    }
    let mark = Mark {
        stream: Stream::UpdateHistory,
        at: stored(entry.date_utc),
        operation,
        result,
        update_id,
        revision: Some(entry.revision),
        kb,
    };
    let code = codes::effective(entry.hresult, [entry.unmapped]);
    let service = if entry.service_id.is_empty() { None } else { guid("service_id", &entry.service_id)? };
    let identity = Identity::new("history", &entry.result.to_string(), &mark, code);
    Ok(Some(Record { mark, code, title, service, identity }))
}

/// Whether a line has the shape of an entry; tells such a file by its content.
#[must_use]
pub fn is_shaped_like(line: &str) -> bool {
    line.starts_with(START)
}

/// An OLE automation date (days since 1899-12-30, UTC) to the second; `None` for what is no date of these centuries.
#[must_use]
pub fn from_ole(date: f64) -> Option<DateTime<Utc>> {
    /// 1970-01-01.
    const EPOCH: f64 = 25_569.0;
    const YEAR_2200: f64 = 109_575.0;
    if !(EPOCH..YEAR_2200).contains(&date) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation)] // in range, as just checked
    let seconds = ((date - EPOCH) * 86_400.0).round() as i64;
    DateTime::from_timestamp(seconds, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            src: Src::WuaHistory,
            op: 1,
            result: 4,
            hresult: HResult(0x8024_200B),
            unmapped: HResult(0x8007_3712),
            date_utc: from_ole(46_036.133_84).expect("a date"),
            update_id: "7b0f6a52-1d7e-4a43-9a3b-5c2d0e9f1a01".into(),
            revision: 200,
            title: "2026-01 Cumulative Update for Windows 11 (KB5999991)".into(),
            client: "MoUpdateOrchestrator".into(),
            service_id: String::new(),
        }
    }

    fn read(entry: &Entry) -> Result<Option<Record>, BadRecord> {
        let line = serde_json::to_string(entry).expect("it can be written");
        assert!(is_shaped_like(&line), "{line}");
        parse(&line)
    }

    #[test]
    fn a_failed_install_is_read_with_the_code_inside() {
        let record = read(&entry()).expect("read").expect("a record");
        assert_eq!(record.code, HResult(0x8007_3712));
        assert_eq!(record.mark.result, OutcomeResult::Failed);
        assert_eq!(record.mark.at.to_rfc3339(), "2026-01-14T03:12:44+00:00");
        assert_eq!(record.mark.kb.map(|kb| kb.to_string()).as_deref(), Some("KB5999991"));
        // A code that says enough stays, whatever is inside.
        let plain = Entry { hresult: HResult(0x8007_0103), ..entry() };
        assert_eq!(read(&plain).expect("read").expect("a record").code, HResult(0x8007_0103));
    }

    #[test]
    fn only_attempts_that_ended_are_records() {
        for (op, result, hresult, expected) in [
            (1, 0, 0, None),
            (1, 1, 0, None),
            (1, 2, 0, Some(OutcomeResult::Succeeded)),
            (1, 2, 0x0024_0005, Some(OutcomeResult::PendingReboot)),
            (2, 5, 0x8024_000B, Some(OutcomeResult::Aborted)),
            (9, 2, 0, None),
        ] {
            let read = read(&Entry { op, result, hresult: HResult(hresult), ..entry() }).expect("read");
            assert_eq!(read.map(|it| it.mark.result), expected, "{op} {result}");
        }
    }

    #[test]
    fn what_names_no_update_or_is_broken_is_said_so() {
        let nothing =
            Entry { update_id: String::from("{00000000-0000-0000-0000-000000000000}"), title: "x".into(), ..entry() };
        assert_eq!(read(&nothing), Err(BadRecord::NoUpdate));
        assert!(parse("{\"src\":\"wua_history\",\"op\":").is_err());
        assert!(from_ole(f64::NAN).is_none() && from_ole(-3.0).is_none() && from_ole(1e12).is_none());
    }
}
