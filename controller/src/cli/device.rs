//! `fleetmend device list|show|approve|ban`: the PCs of the fleet.

use std::{io::Read as _, path::PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use fleetmend_proto::DeviceId;

use super::{
    exit::{Code, Failure},
    incident,
    output::{Output, fields, line, or_dash, table, time, yes_no},
    remote::{Connection, Remote},
};
use crate::http::views::device::{ApproveSerials, Approved, Ban, Device, DeviceDetail};

/// Serial numbers sent at once: far below the largest body the API takes.
const BATCH: usize = 500;
/// No serial number of a PC is longer (SMBIOS strings).
const MAX_SERIAL: usize = 128;

#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// All devices, or those that fit the filters
    #[command(
        after_help = "Examples:\n  fleetmend device list --state quarantined\n  fleetmend device list --output json"
    )]
    List(List),
    /// One device: its condition and its open incidents
    Show(Show),
    /// Let quarantined devices into the fleet
    #[command(after_help = APPROVE_EXAMPLES)]
    Approve(Approve),
    /// Throw a device out: its certificate is refused from now on and its connection is cut
    #[command(after_help = "Example:\n  fleetmend device ban 8f14e45f-ceea-467f-a8d4-3f5e1f0c2b11 --reason 'stolen'")]
    Ban(BanDevice),
}

const APPROVE_EXAMPLES: &str = "\
Examples:
  fleetmend device approve 8f14e45f-ceea-467f-a8d4-3f5e1f0c2b11
  fleetmend device approve --serials delivered.txt     one serial number a line; # starts a comment
  grep Latitude stock.csv | cut -d, -f2 | fleetmend device approve --serials -

Serial numbers of devices that have not enrolled yet are kept: those devices need no approval later.";

#[derive(Debug, Args)]
pub struct List {
    /// Only devices in this state: active, quarantined, banned, ...
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only devices whose name begins with this
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// At most this many [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The device's id
    device: DeviceId,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whom").required(true).args(["device", "serials"])))]
pub struct Approve {
    /// The device's id
    device: Option<DeviceId>,
    /// File of serial numbers, one a line (`-` = standard input)
    #[arg(long, value_name = "FILE")]
    serials: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct BanDevice {
    /// The device's id
    device: DeviceId,
    /// Why, for those who find it banned later
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl DeviceCommand {
    /// # Errors
    /// By what the controller answers; 64 and 65 for a file of serial numbers that cannot be used.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
            Self::Approve(approve) => approve.run(),
            Self::Ban(ban) => ban.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let devices: Vec<Device> =
            self.connection.open()?.list("/devices", &[("state", self.state), ("name", self.name)], self.limit)?;
        self.output.print(&devices, |devices| {
            table(
                &["ID", "NAME", "SERIAL", "STATE", "RING", "CONNECTED", "LAST SEEN", "BUILD", "AUTHORITY"],
                devices.iter().map(|device| {
                    [
                        device.id.to_string(),
                        device.name.clone(),
                        device.serial.clone(),
                        device.state.to_string(),
                        device.ring.clone(),
                        yes_no(device.connected).to_owned(),
                        or_dash(device.last_seen_at.map(time)),
                        device.os_build.clone(),
                        device.update_authority.to_string(),
                    ]
                }),
            )
        })
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let device: DeviceDetail = self.connection.open()?.get(&format!("/devices/{}", self.device), &[])?;
        self.output.print(&device, details)
    }
}

impl Approve {
    fn run(self) -> Result<(), Failure> {
        let serials = self.serials.as_deref().map(read_serials).transpose()?;
        let remote = self.connection.open()?;
        match (serials, self.device) {
            (Some(serials), _) => {
                let approved = approve_serials(&remote, &serials)?;
                self.output.print(&approved, |approved| {
                    let (let_in, kept) = (approved.approved.len(), approved.expected.len());
                    let done = format!(
                        "{let_in} devices approved; {kept} serial numbers kept for devices that are yet to enrol"
                    );
                    match &approved.banned[..] {
                        [] => done,
                        banned => format!("{done}; banned, approve by id: {}", banned.join(", ")),
                    }
                })
            }
            (None, Some(id)) => {
                let device: Device = remote.post(&format!("/devices/{id}/approve"), &serde_json::json!({}))?;
                self.output.print(&device, |device| format!("{} ({}) is {}", device.id, device.name, device.state))
            }
            (None, None) => Err(Failure::new(Code::Usage, "give a device's id or --serials FILE")),
        }
    }
}

impl BanDevice {
    fn run(self) -> Result<(), Failure> {
        let body = Ban { reason: self.reason };
        let device: Device = self.connection.open()?.post(&format!("/devices/{}/ban", self.device), &body)?;
        self.output.print(&device, |device| format!("{} ({}) is {}", device.id, device.name, device.state))
    }
}

fn details(device: &DeviceDetail) -> String {
    let it = &device.device;
    let mut pairs = vec![
        ("Device", it.id.to_string()),
        ("Name", it.name.clone()),
        ("Serial", it.serial.clone()),
        ("State", it.state.to_string()),
        ("Because", or_dash(it.state_reason.clone())),
        ("Ring", it.ring.clone()),
        ("Connected", yes_no(it.connected).to_owned()),
        ("Last seen", or_dash(it.last_seen_at.map(time))),
        ("Build", format!("{} {}", it.os_build, it.architecture)),
        ("Product", format!("{}, {}", it.product_type, it.role)),
        ("Update authority", it.update_authority.to_string()),
        ("Restart pending", yes_no(it.reboot_pending).to_owned()),
        ("Excluded", yes_no(it.excluded).to_owned()),
        ("Agent", it.agent_version.clone()),
        ("Enrolled", time(it.enrolled_at)),
        ("Certificate until", time(it.certificate_expires_at)),
    ];
    if let Some(condition) = &device.condition {
        pairs.extend([
            ("Model", format!("{} {}", condition.manufacturer, condition.model)),
            ("Edition", format!("{} {}", condition.edition, condition.display_version)),
            ("Time zone", condition.time_zone.clone()),
            ("Free on system disk", format!("{} MiB", condition.system_free_bytes / (1024 * 1024))),
            ("Described at", time(condition.collected_at)),
        ]);
        pairs.extend(condition.reboot_pending.iter().map(|reason| ("Restart owed for", reason.clone())));
        pairs.extend(
            condition.unavailable_sources.iter().map(|it| ("Cannot read", format!("{}: {}", it.source, it.reason))),
        );
    }
    let text = fields(pairs);
    if device.open_incidents.is_empty() {
        return format!("{text}\n\nno open incidents");
    }
    format!("{text}\n\n{}", incident::rows(&device.open_incidents))
}

fn approve_serials(remote: &Remote, serials: &[String]) -> Result<Approved, Failure> {
    let mut all = Approved::default();
    for (at, batch) in serials.chunks(BATCH).enumerate() {
        let body = ApproveSerials { serials: batch.to_vec() };
        let answer: Result<Approved, Failure> = remote.post("/devices/approve", &body);
        let approved = answer.inspect_err(|_| {
            if at > 0 {
                let _ = line(&format!("the first {} serial numbers are approved; the rest is not", at * BATCH));
            }
        })?;
        all.approved.extend(approved.approved);
        all.expected.extend(approved.expected);
        all.banned.extend(approved.banned);
    }
    Ok(all)
}

/// One serial number a line; empty lines and what follows `#` are skipped.
fn read_serials(file: &std::path::Path) -> Result<Vec<String>, Failure> {
    let cannot = |code, why: &dyn std::fmt::Display| {
        Failure::new(code, format_args!("cannot take serial numbers from {}: {why}", file.display()))
    };
    let bytes = if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    let bytes = bytes.map_err(|error| cannot(Code::Usage, &error))?;
    let text = String::from_utf8(bytes).map_err(|_| cannot(Code::Data, &"it is not UTF-8 text"))?;
    let mut serials = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let serial = line.split('#').next().unwrap_or_default().trim();
        if serial.len() > MAX_SERIAL || serial.chars().any(char::is_control) {
            return Err(cannot(Code::Data, &format_args!("line {} holds no serial number", number + 1)));
        }
        if !serial.is_empty() {
            serials.push(serial.to_owned());
        }
    }
    if serials.is_empty() { Err(cannot(Code::Data, &"it holds none")) } else { Ok(serials) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<String>, Code> {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let file = dir.path().join("serials.txt");
        std::fs::write(&file, bytes).expect("the file is written");
        read_serials(&file).map_err(|failure| failure.code())
    }

    #[test]
    fn serial_files_are_read_as_people_write_them() {
        let text = "\u{feff}PF2ABC1\r\n\n  PF2ABC2   # Bob's\n# all\nVMware-56 4d\n";
        assert_eq!(read(text.as_bytes()), Ok(vec!["PF2ABC1".into(), "PF2ABC2".into(), "VMware-56 4d".into()]));
    }

    #[test]
    fn what_is_no_list_of_serials_is_refused() {
        assert_eq!(read(b"\n# nothing\n"), Err(Code::Data));
        assert_eq!(read(b"\xff\xfe"), Err(Code::Data));
        assert_eq!(read(b"a\x1bb\n"), Err(Code::Data));
        assert_eq!(read("x".repeat(200).as_bytes()), Err(Code::Data));
        assert_eq!(read_serials(std::path::Path::new("/nonexistent")).map_err(|it| it.code()), Err(Code::Usage));
    }
}
