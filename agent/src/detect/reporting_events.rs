//! One line of `%SystemRoot%\SoftwareDistribution\ReportingEvents.log`. Pure; `scan` finds the lines.
//!
//! Tab-separated: instance GUID, local time with offset, namespace, `182 [AGENT_INSTALLING_FAILED]`, source, update id,
//! revision, HRESULT in hex without `0x`, caller, Success/Failure, category, localised message, correlation vector.
//! What happened is told by the bracketed name, which is never localised; by the number where the name is missing.

use std::sync::LazyLock;

use chrono::{DateTime, FixedOffset, NaiveDate, TimeDelta, Utc};
use fleetmend_proto::{HResult, Operation, OutcomeResult};
use regex::Regex;

use super::{
    codes,
    naming::{kb_of, title_in},
    record::{BadRecord, Identity, Mark, Record, Stream, guid, stored},
};

/// Columns a whole line has; the correlation vector may follow as one more.
pub const COLUMNS: usize = 12;

/// Number, name and meaning of the records that end an attempt. The `AU_` records speak of a session of several updates,
/// starts and `_HIDE` end nothing, and a cancelled download is simply begun again.
const ENDS: [(u32, &str, Operation, OutcomeResult); 16] = [
    (161, "AGENT_DOWNLOAD_FAILED", Operation::Download, OutcomeResult::Failed),
    (182, "AGENT_INSTALLING_FAILED", Operation::Install, OutcomeResult::Failed),
    (183, "AGENT_INSTALLING_SUCCEEDED", Operation::Install, OutcomeResult::Succeeded),
    (184, "AGENT_INSTALL_COMPLETE_WITH_REBOOT", Operation::Install, OutcomeResult::PendingReboot),
    (186, "AGENT_INSTALL_CANCEL", Operation::Install, OutcomeResult::Aborted),
    (187, "AGENT_INSTALL_KILLED", Operation::Install, OutcomeResult::Aborted),
    (201, "AGENT_INSTALLING_PENDING", Operation::Install, OutcomeResult::PendingReboot),
    (203, "AGENT_INSTALL_POSTREBOOT_SUCCEEDED", Operation::Install, OutcomeResult::Succeeded),
    (204, "AGENT_INSTALLING_FAILED_POST_REBOOT", Operation::Install, OutcomeResult::Failed),
    (221, "AGENT_UNINSTALLING_FAILED", Operation::Uninstall, OutcomeResult::Failed),
    (222, "AGENT_UNINSTALLING_SUCCEEDED", Operation::Uninstall, OutcomeResult::Succeeded),
    (223, "AGENT_UNINSTALL_CANCEL", Operation::Uninstall, OutcomeResult::Aborted),
    (224, "AGENT_UNINSTALL_COMPLETE_WITH_REBOOT", Operation::Uninstall, OutcomeResult::PendingReboot),
    (225, "AGENT_UNINSTALL_KILLED", Operation::Uninstall, OutcomeResult::Aborted),
    (522, "AGENT_COMMIT_FAILED", Operation::Install, OutcomeResult::Failed),
    // Written by some builds under a number that is not known; only the name tells.
    (0, "AGENT_UNINSTALLING_PENDING", Operation::Uninstall, OutcomeResult::PendingReboot),
];

static TIME: LazyLock<Regex> = LazyLock::new(|| {
    let text = r"^([0-9]{4})-([0-9]{2})-([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:([:.,])([0-9]{1,6})[0-9]*)?\s*(?:([Zz])|([+-])([0-9]{2}):?([0-9]{2}))$";
    #[allow(clippy::expect_used)]
    Regex::new(text).expect("a literal pattern compiles")
});

/// Reads one line, without its line end.
///
/// `Ok(None)`: a record of something else than an attempt that ended, or of no update.
///
/// # Errors
/// The first thing in the line that cannot be understood.
pub fn parse(line: &str) -> Result<Option<Record>, BadRecord> {
    let columns: Vec<&str> = line.split('\t').map(str::trim).collect();
    let [instance, time, _, event, _, update, revision, code, _, _, _, message, ..] = columns.as_slice() else {
        return Err(BadRecord::Columns { found: columns.len() });
    };
    let Some((operation, result)) = end_of(event)? else { return Ok(None) };
    let update_id = guid("update id", update)?;
    let title = title_in(message);
    let kb = kb_of(&title).or_else(|| kb_of(message));
    if update_id.is_none() && kb.is_none() {
        return Ok(None);
    }
    let code = hex_code(code)?;
    let reboot_owed = result == OutcomeResult::Succeeded && code == codes::REBOOT_REQUIRED;
    let mark = Mark {
        stream: Stream::ReportingEvents,
        at: stored(time_of(time)?),
        operation,
        result: if reboot_owed { OutcomeResult::PendingReboot } else { result },
        update_id,
        revision: Some(revision_of(revision)?),
        kb,
    };
    let identity = Identity::new(&instance.to_ascii_lowercase(), event, &mark, code);
    Ok(Some(Record { mark, code, title, service: None, identity }))
}

/// Whether a line has the shape of this log, whatever it records; tells such a file by its content.
#[must_use]
pub fn is_shaped_like(line: &str) -> bool {
    let columns: Vec<&str> = line.split('\t').collect();
    let [instance, time, _, event, ..] = columns.as_slice() else { return false };
    columns.len() >= COLUMNS
        && instance.trim().starts_with('{')
        && guid("instance", instance).is_ok()
        && (time_of(time).is_ok() || event.trim().starts_with(|c: char| c.is_ascii_digit()))
}

/// What a record ended; `None` for one that ends nothing.
fn end_of(event: &str) -> Result<Option<(Operation, OutcomeResult)>, BadRecord> {
    let digits = event.find(|c: char| !c.is_ascii_digit()).unwrap_or(event.len());
    let (number, rest) = event.split_at(digits);
    let name = rest.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::trim);
    let end = match name {
        Some(name) => ENDS.iter().find(|end| end.1.eq_ignore_ascii_case(name)),
        None => {
            let number: u32 =
                number.parse().map_err(|_| BadRecord::field("event", event, "like 182 [AGENT_INSTALLING_FAILED]"))?;
            ENDS.iter().find(|end| end.0 == number && number != 0)
        }
    };
    Ok(end.map(|&(_, _, operation, result)| (operation, result)))
}

/// This log writes codes in hex without `0x`, so `240005` is 0x00240005, never a decimal.
fn hex_code(text: &str) -> Result<HResult, BadRecord> {
    let bare = (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let code = if bare { u32::from_str_radix(text, 16).ok().map(HResult) } else { text.parse().ok() };
    code.ok_or_else(|| BadRecord::field("HRESULT", text, "hexadecimal digits like 80073712"))
}

fn revision_of(text: &str) -> Result<i32, BadRecord> {
    text.parse().map_err(|_| BadRecord::field("revision", text, "a whole number"))
}

/// `2026-01-14 04:12:44:123+0100`: local time, milliseconds after a colon, offset from UTC.
fn time_of(text: &str) -> Result<DateTime<Utc>, BadRecord> {
    instant(text.trim()).ok_or_else(|| BadRecord::field("time", text, "like 2026-01-14 04:12:44:123+0100"))
}

fn instant(text: &str) -> Option<DateTime<Utc>> {
    let parts = TIME.captures(text)?;
    let number = |group: usize| parts.get(group).and_then(|it| it.as_str().parse::<u32>().ok());
    let year = parts.get(1)?.as_str().parse().ok()?;
    let micros = match (parts.get(7).map(|it| it.as_str()), parts.get(8).map(|it| it.as_str())) {
        (Some(":"), Some(millis)) => millis.parse::<u32>().ok().filter(|millis| *millis < 1000)? * 1000,
        (Some(_), Some(digits)) => format!("{digits:0<6}").parse().ok()?,
        _ => 0,
    };
    let local = NaiveDate::from_ymd_opt(year, number(2)?, number(3)?)?.and_hms_micro_opt(
        number(4)?,
        number(5)?,
        number(6)?,
        micros,
    )?;
    let seconds = if parts.get(9).is_some() {
        0
    } else {
        let (hours, minutes) = (number(11)?, number(12)?);
        let size = i32::try_from(hours * 3600 + minutes * 60).ok()?;
        if minutes > 59 {
            return None;
        }
        if parts.get(10)?.as_str() == "-" { -size } else { size }
    };
    FixedOffset::east_opt(seconds)?;
    Some(local.checked_sub_signed(TimeDelta::seconds(seconds.into()))?.and_utc())
}

#[cfg(test)]
#[path = "reporting_events_tests.rs"]
mod tests;
