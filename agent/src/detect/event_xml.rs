//! One `<Event>` as `wevtutil` and the event log API render it. Pure; `scan` finds the events in a file.
//!
//! Namespaces and `RenderingInfo` (localised) are ignored; data are taken by name. Two providers matter:
//! `Microsoft-Windows-WindowsUpdateClient` (System and its Operational channel) and `Microsoft-Windows-Servicing` (Setup).

use chrono::{DateTime, NaiveDateTime, Utc};
use fleetmend_proto::{HResult, Operation, OutcomeResult};
use quick_xml::{Reader, XmlVersion, escape::resolve_predefined_entity, events::Event};

use super::{
    codes,
    naming::{clean_title, kb_of},
    record::{BadRecord, Identity, Mark, Record, Stream, guid, stored},
};

const UPDATE_CLIENT: &str = "Microsoft-Windows-WindowsUpdateClient";
const SERVICING: &str = "Microsoft-Windows-Servicing";
/// Deeper nesting than any event has.
const MAX_DEPTH: usize = 32;
/// Package states of Servicing are numbered from here; what follows is the state itself.
const STATE_BASE: u32 = 5000;

/// What was read of an event, by name.
#[derive(Debug, Default)]
struct Raw {
    provider: String,
    event_id: String,
    time: String,
    record_id: String,
    channel: String,
    computer: String,
    /// `Data` elements by their `Name`, and the leaves of `UserData` by their element name.
    data: Vec<(String, String)>,
}

impl Raw {
    fn get(&self, name: &str) -> Option<&str> {
        self.data.iter().find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn needed(&self, name: &'static str) -> Result<&str, BadRecord> {
        self.get(name).filter(|value| !value.is_empty()).ok_or(BadRecord::Missing { field: name })
    }

    fn at(&self) -> Result<DateTime<Utc>, BadRecord> {
        let text = self.time.trim();
        if text.is_empty() {
            return Err(BadRecord::Missing { field: "TimeCreated SystemTime" });
        }
        // SystemTime is UTC; some exporters leave out the Z.
        DateTime::parse_from_rfc3339(text)
            .map(|at| at.to_utc())
            .or_else(|_| text.parse::<NaiveDateTime>().map(|at| at.and_utc()))
            .map(stored)
            .map_err(|_| BadRecord::field("SystemTime", text, "a time like 2026-01-14T03:12:44.1234567Z"))
    }

    fn code(&self) -> Result<HResult, BadRecord> {
        let text = self.needed("errorCode")?;
        text.parse().map_err(|_| BadRecord::field("errorCode", text, "a code like 0x80073712 or -2147010798"))
    }

    fn record(&self, mark: Mark, code: HResult, title: String) -> Result<Record, BadRecord> {
        let service = self.get("serviceGuid").and_then(|text| guid("serviceGuid", text).ok()).flatten();
        let key = format!("{}\u{1f}{}\u{1f}{}", self.computer.trim(), self.channel.trim(), self.record_id.trim());
        let identity = Identity::new(&key, self.event_id.trim(), &mark, code);
        Ok(Record { mark, code, title, service, identity })
    }
}

/// Reads one event from its start tag to its end tag.
///
/// `Ok(None)`: an event of something else than an attempt that ended, or of no update.
///
/// # Errors
/// What is broken in its XML, or the first value that cannot be understood.
pub fn parse(xml: &str) -> Result<Option<Record>, BadRecord> {
    let raw = read(xml)?;
    let is = |provider: &str| raw.provider.trim().eq_ignore_ascii_case(provider);
    if is(UPDATE_CLIENT) {
        update_client(&raw)
    } else if is(SERVICING) {
        servicing(&raw)
    } else {
        Ok(None)
    }
}

/// 19/20 installed or not, 23/24 uninstalled or not, 31 not downloaded. 21/22 (restart required) list titles of several
/// updates in free text and are left to the Setup log; 25 is a scan.
fn update_client(raw: &Raw) -> Result<Option<Record>, BadRecord> {
    let (operation, result) = match event_id(raw)? {
        19 => (Operation::Install, OutcomeResult::Succeeded),
        20 => (Operation::Install, OutcomeResult::Failed),
        23 => (Operation::Uninstall, OutcomeResult::Succeeded),
        24 => (Operation::Uninstall, OutcomeResult::Failed),
        31 => (Operation::Download, OutcomeResult::Failed),
        _ => return Ok(None),
    };
    let title = clean_title(raw.get("updateTitle").unwrap_or_default());
    let kb = kb_of(&title);
    let named = raw.get("updateGuid").filter(|text| !text.is_empty());
    let update_id = named.map(|text| guid("updateGuid", text)).transpose()?.flatten();
    if update_id.is_none() && kb.is_none() {
        return if named.is_some() { Ok(None) } else { Err(BadRecord::NoUpdate) };
    }
    let code = if result == OutcomeResult::Failed { raw.code()? } else { raw.code().unwrap_or(HResult::OK) };
    let revision = raw.get("updateRevisionNumber").filter(|text| !text.is_empty());
    let revision = revision
        .map(|text| text.parse().map_err(|_| BadRecord::field("updateRevisionNumber", text, "a whole number")))
        .transpose()?;
    let reboot_owed = result == OutcomeResult::Succeeded && code == codes::REBOOT_REQUIRED;
    let operational = raw.channel.trim().to_ascii_lowercase().ends_with("/operational");
    let mark = Mark {
        stream: if operational { Stream::Operational } else { Stream::System },
        at: raw.at()?,
        operation,
        result: if reboot_owed { OutcomeResult::PendingReboot } else { result },
        update_id,
        revision,
        kb,
    };
    raw.record(mark, code, title).map(Some)
}

/// 2 reached its state, 3 failed, 4 owes a restart, 6 failed and is partly installed. 1 is a start, 5 "not applicable",
/// and the rest are features and store checks.
fn servicing(raw: &Raw) -> Result<Option<Record>, BadRecord> {
    let result = match event_id(raw)? {
        2 => OutcomeResult::Succeeded,
        3 | 6 => OutcomeResult::Failed,
        4 => OutcomeResult::PendingReboot,
        _ => return Ok(None),
    };
    let operation = match intended(raw) {
        Intended::Absent => Operation::Uninstall,
        Intended::Installed => Operation::Install,
        // A package on its way: only a failure there ends the attempt.
        Intended::Between if result == OutcomeResult::Failed => Operation::Install,
        Intended::Between => return Ok(None),
    };
    // Packages without a KB in their name (`Package_for_RollupFix~...`) cannot be told to be an update's.
    let Some(kb) = raw.get("PackageIdentifier").and_then(kb_of) else { return Ok(None) };
    let code = match result {
        OutcomeResult::Failed => raw.code()?,
        OutcomeResult::Succeeded
        | OutcomeResult::SucceededWithErrors
        | OutcomeResult::Aborted
        | OutcomeResult::PendingReboot => raw.code().unwrap_or(HResult::OK),
    };
    let mark = Mark {
        stream: Stream::SetupLog,
        at: raw.at()?,
        operation,
        result,
        update_id: None,
        revision: None,
        kb: Some(kb),
    };
    raw.record(mark, code, String::new()).map(Some)
}

/// What a package was to become.
enum Intended {
    Absent,
    Installed,
    Between,
}

/// By the English word; by the number where the word is localised, empty or missing; else an install is meant.
fn intended(raw: &Raw) -> Intended {
    // Where the number is left out, its element may hold the word.
    let number = raw.get("IntendedPackageState").unwrap_or_default();
    let word = raw.get("IntendedPackageStateTextized").filter(|word| !word.is_empty()).unwrap_or(number);
    match word.to_ascii_lowercase().as_str() {
        "absent" | "uninstall pending" | "uninstallpending" => return Intended::Absent,
        "resolving" | "resolved" | "staging" | "staged" | "superseded" => return Intended::Between,
        "installed" | "install pending" | "installpending" | "permanent" => return Intended::Installed,
        _ => {}
    }
    match number.parse::<u32>().ok().and_then(|state| state.checked_sub(STATE_BASE)) {
        Some(0x00..=0x05) => Intended::Absent,
        Some(0x06..=0x5F) => Intended::Between,
        Some(_) | None => Intended::Installed,
    }
}

fn event_id(raw: &Raw) -> Result<u32, BadRecord> {
    let text = raw.event_id.trim();
    text.parse().map_err(|_| BadRecord::field("EventID", text, "a number"))
}

/// Walks the XML once. Only `System`, `EventData` and `UserData` are looked at.
fn read(xml: &str) -> Result<Raw, BadRecord> {
    // SECURITY: such an error quotes the file, and goes to terminals.
    let broken = |error: &dyn std::fmt::Display| {
        BadRecord::Xml(error.to_string().chars().filter(|c| !c.is_control()).take(160).collect())
    };
    let mut reader = Reader::from_str(xml);
    reader.config_mut().expand_empty_elements = true;
    let mut raw = Raw::default();
    let mut path: Vec<String> = Vec::new();
    // Text of the innermost element, and the name that `Data` gave it.
    let mut text = String::new();
    let mut data_name: Option<String> = None;
    let mut is_leaf = true;
    loop {
        match reader.read_event().map_err(|error| broken(&error))? {
            Event::Start(tag) => {
                if path.len() >= MAX_DEPTH {
                    return Err(BadRecord::Xml(format!("nested deeper than {MAX_DEPTH} levels")));
                }
                let name = tag.local_name().as_ref().to_owned();
                for attribute in tag.attributes() {
                    let attribute = attribute.map_err(|error| broken(&error))?;
                    let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| broken(&error))?;
                    match (path.last().map(String::as_str), name.as_str(), attribute.key.as_ref()) {
                        (Some("System"), "Provider", "Name") => raw.provider = value.into_owned(),
                        (Some("System"), "TimeCreated", "SystemTime") => raw.time = value.into_owned(),
                        (Some("EventData"), "Data", "Name") => data_name = Some(value.into_owned()),
                        _ => {}
                    }
                }
                path.push(name);
                text.clear();
                is_leaf = true;
            }
            Event::End(_) => {
                let name = path.pop().unwrap_or_default();
                let value = std::mem::take(&mut text);
                let inside: Vec<&str> = path.iter().skip(1).map(String::as_str).collect();
                match (inside.as_slice(), name.as_str()) {
                    (["System"], "EventID") => raw.event_id = value,
                    (["System"], "EventRecordID") => raw.record_id = value,
                    (["System"], "Channel") => raw.channel = value,
                    (["System"], "Computer") => raw.computer = value,
                    (["EventData"], "Data") => raw.data.extend(data_name.take().map(|name| (name, value))),
                    (["UserData", ..], _) if is_leaf => raw.data.push((name, value)),
                    _ => {}
                }
                is_leaf = false;
                if path.is_empty() {
                    return Ok(raw);
                }
            }
            Event::Text(part) => text.push_str(&part.xml10_content()),
            Event::CData(part) => text.push_str(&part.xml10_content()),
            Event::GeneralRef(reference) => {
                let known = if let Some(c) = reference.resolve_char_ref().map_err(|error| broken(&error))? {
                    text.push(c);
                    true
                } else {
                    let entity = resolve_predefined_entity(&reference.xml10_content());
                    entity.inspect(|entity| text.push_str(entity)).is_some()
                };
                if !known {
                    return Err(BadRecord::Xml("an entity that XML does not define".into()));
                }
            }
            Event::Eof => return Err(BadRecord::CutOff),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "event_xml_tests.rs"]
mod tests;
