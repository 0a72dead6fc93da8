//! Events as `wevtutil` exports them, one after another with no root element: the update client's in the System
//! channel, the servicing stack's in the Setup channel.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_proto::{HResult, UpdateKind};

use crate::pc::{change::Attempt, profile::Profile};

const UPDATE_SERVICE: &str = "{9482F4B4-E343-43B6-B170-9A65BC822C77}";
const DRIVER_SERVICE: &str = "{8B24B027-1DEE-BABB-9A95-3517DFB9C552}";

/// Event 20, 19 or 21 of the update client.
pub fn system(profile: &Profile, number: u64, attempt: &Attempt) -> String {
    if !attempt.by_update_client {
        return String::new();
    }
    let title = escape(&attempt.update.title);
    let failed = attempt.reported.is_failure();
    if attempt.reboot_owed && !failed {
        let data = format!(
            "<UserData><EventXML xmlns=\"http://schemas.microsoft.com/win/2004/08/windows/updateclient\">\
             <updatelist>- {title}</updatelist></EventXML></UserData>"
        );
        return event(profile, &header(number, 21, 4, attempt.at, UPDATE_CLIENT, "System"), &data);
    }
    let mut data = String::from("<EventData>");
    if failed {
        let _ = write!(data, "<Data Name=\"errorCode\">0x{:08x}</Data>", attempt.reported.0);
    }
    let id = attempt.update.update_id.unwrap_or_default().braced().to_string().to_uppercase();
    let service = if attempt.update.kind == UpdateKind::Driver { DRIVER_SERVICE } else { UPDATE_SERVICE };
    let revision = attempt.update.revision;
    let _ = write!(
        data,
        "<Data Name=\"updateTitle\">{title}</Data><Data Name=\"updateGuid\">{id}</Data>\
         <Data Name=\"updateRevisionNumber\">{revision}</Data><Data Name=\"serviceGuid\">{service}</Data></EventData>"
    );
    let (event_id, level) = if failed { (20, 2) } else { (19, 4) };
    event(profile, &header(number, event_id, level, attempt.at, UPDATE_CLIENT, "System"), &data)
}

/// Events 1 and 2, 3 or 4 of the servicing stack.
pub fn setup(profile: &Profile, number: u64, attempt: &Attempt) -> String {
    let (Some(code), Some(kb)) = (attempt.servicing, attempt.update.kb) else {
        return String::new();
    };
    let client = if attempt.by_update_client { "UpdateAgentLCU" } else { "DISM Package Manager Provider" };
    let started = format!(
        "<UserData><CbsPackageInitiateChanges xmlns=\"{SERVICING_SCHEMA}\"><PackageIdentifier>{kb}</PackageIdentifier>\
         <InitialPackageState>5000</InitialPackageState><InitialPackageStateTextized>Absent</InitialPackageStateTextized>\
         <IntendedPackageState>5112</IntendedPackageState><IntendedPackageStateTextized>Installed\
         </IntendedPackageStateTextized><Client>{client}</Client></CbsPackageInitiateChanges></UserData>"
    );
    let code_text = if code == HResult::OK { "0x0".to_owned() } else { format!("0x{:08x}", code.0) };
    let ended = format!(
        "<UserData><CbsPackageChangeState xmlns=\"{SERVICING_SCHEMA}\"><PackageIdentifier>{kb}</PackageIdentifier>\
         <IntendedPackageState>5112</IntendedPackageState><IntendedPackageStateTextized>Installed\
         </IntendedPackageStateTextized><ErrorCode>{code_text}</ErrorCode><Client>{client}</Client>\
         </CbsPackageChangeState></UserData>"
    );
    let (event_id, level) = match (code.is_failure(), attempt.reboot_owed) {
        (true, _) => (3, 2),
        (false, true) => (4, 4),
        (false, false) => (2, 4),
    };
    let (start, end) = (attempt.at - TimeDelta::seconds(95), attempt.at - TimeDelta::milliseconds(1_700));
    event(profile, &header(number * 2, 1, 4, start, SERVICING, "Setup"), &started)
        + &event(profile, &header(number * 2 + 1, event_id, level, end, SERVICING, "Setup"), &ended)
}

const SERVICING_SCHEMA: &str = "http://manifests.microsoft.com/win/2004/08/windows/setup_provider";
const UPDATE_CLIENT: Provider =
    Provider { name: "Microsoft-Windows-WindowsUpdateClient", guid: "{945A8954-C147-4ACD-923F-40C45405A658}" };
const SERVICING: Provider =
    Provider { name: "Microsoft-Windows-Servicing", guid: "{BD12F3B8-FC40-4A61-A307-B7A013A069C1}" };

#[derive(Clone, Copy)]
struct Provider {
    name: &'static str,
    guid: &'static str,
}

struct Header {
    record_id: u64,
    event_id: u32,
    level: u32,
    at: DateTime<Utc>,
    provider: Provider,
    channel: &'static str,
}

const fn header(
    record_id: u64,
    event_id: u32,
    level: u32,
    at: DateTime<Utc>,
    provider: Provider,
    channel: &'static str,
) -> Header {
    Header { record_id, event_id, level, at, provider, channel }
}

fn event(profile: &Profile, header: &Header, data: &str) -> String {
    let Header { record_id, event_id, level, at, provider: Provider { name, guid }, channel } = header;
    // Windows prints tenths of microseconds.
    let at = format!("{}0Z", at.format("%Y-%m-%dT%H:%M:%S%.6f"));
    let computer = format!("{}.corp.example", profile.machine.computer_name);
    format!(
        "<Event xmlns=\"http://schemas.microsoft.com/win/2004/08/events/event\"><System>\
         <Provider Name=\"{name}\" Guid=\"{guid}\"/><EventID>{event_id}</EventID><Version>1</Version>\
         <Level>{level}</Level><Task>1</Task><Opcode>13</Opcode><Keywords>0x8000000000000028</Keywords>\
         <TimeCreated SystemTime=\"{at}\"/><EventRecordID>{record_id}</EventRecordID><Correlation/>\
         <Execution ProcessID=\"4312\" ThreadID=\"9120\"/><Channel>{channel}</Channel><Computer>{computer}</Computer>\
         <Security UserID=\"S-1-5-18\"/></System>{data}</Event>\r\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
