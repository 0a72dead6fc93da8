//! The text of an order: one `name value` line a field, fixed order, nothing optional, nothing unknown.
//!
//! ```text
//! fleetmend/order/v1
//! fleet 0b9f...            device 51c2...          order 0190...          incident 0190...   (one line each, UUIDs)
//! fence 12
//! not-before 2026-01-14T03:12:44.123456Z
//! not-after 2026-01-15T03:12:44.123456Z
//! action install_manually
//! argument 9f86d0...       (package hash; reset settings; `-` = none)
//! update-id 7b0f...        (or -)
//! revision 200
//! kb KB5124010             (or -)
//! ```

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

use crate::{
    Action, DeviceId, Fence, FleetId, IncidentId, Kb, OrderId, ResetMethod, ResetPc, ResetSource, UpdateKind, UpdateRef,
};

const TYPE_LINE: &str = "fleetmend/order/v1";

/// What the controller wants done, on which device, for which update, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderText {
    pub fleet: FleetId,
    pub device: DeviceId,
    pub order: OrderId,
    pub incident: IncidentId,
    pub fence: Fence,
    /// Domain time.
    pub not_before: DateTime<Utc>,
    /// Domain time: the agent starts nothing after it.
    pub not_after: DateTime<Utc>,
    pub action: Action,
    pub update_id: Option<Uuid>,
    pub revision: i32,
    pub kb: Option<Kb>,
}

impl OrderText {
    /// The update to try again at the end of the action (title and kind are not part of an order).
    #[must_use]
    pub fn update(&self) -> UpdateRef {
        UpdateRef {
            update_id: self.update_id,
            revision: self.revision,
            kb: self.kb,
            title: String::new(),
            kind: UpdateKind::Unknown,
            supersedes: Vec::new(),
        }
    }
}

/// Where the text of an order breaks its grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("line {line}: expected {expected:?}")]
    Line { line: usize, expected: &'static str },
    #[error("unknown action {0:?}: this agent is older than the controller")]
    UnknownAction(String),
}

impl fmt::Display for OrderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |t: &DateTime<Utc>| t.to_rfc3339_opts(SecondsFormat::Micros, true);
        writeln!(f, "{TYPE_LINE}")?;
        writeln!(f, "fleet {}", self.fleet)?;
        writeln!(f, "device {}", self.device)?;
        writeln!(f, "order {}", self.order)?;
        writeln!(f, "incident {}", self.incident)?;
        writeln!(f, "fence {}", self.fence)?;
        writeln!(f, "not-before {}", time(&self.not_before))?;
        writeln!(f, "not-after {}", time(&self.not_after))?;
        writeln!(f, "action {}", self.action.name())?;
        writeln!(f, "argument {}", argument(&self.action))?;
        writeln!(f, "update-id {}", or_dash(self.update_id))?;
        writeln!(f, "revision {}", self.revision)?;
        writeln!(f, "kb {}", or_dash(self.kb))
    }
}

fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn argument(action: &Action) -> String {
    match action {
        Action::InstallManually { package } => package.to_string(),
        Action::RepairInstall { media } => media.to_string(),
        Action::ResetPc(reset) => {
            let method = match reset.method {
                ResetMethod::KeepFiles => "keep-files",
                ResetMethod::RemoveEverything => "remove-everything",
            };
            let source = match reset.source {
                ResetSource::Local => "local",
                ResetSource::Cloud => "cloud",
            };
            let packages = if reset.keep_provisioning { "with-provisioning" } else { "without-provisioning" };
            format!("{method} {source} {packages}")
        }
        Action::Retry
        | Action::Troubleshoot
        | Action::RepairImage
        | Action::ResetComponents
        | Action::Reboot
        | Action::HideUpdate => "-".to_owned(),
    }
}

fn parse_action(name: &str, argument: &str) -> Result<Action, TextError> {
    let bad = TextError::Line { line: 10, expected: "argument" };
    let plain = |action| if argument == "-" { Ok(action) } else { Err(bad.clone()) };
    match name {
        "retry" => plain(Action::Retry),
        "troubleshoot" => plain(Action::Troubleshoot),
        "repair_image" => plain(Action::RepairImage),
        "reset_components" => plain(Action::ResetComponents),
        "reboot" => plain(Action::Reboot),
        "hide_update" => plain(Action::HideUpdate),
        "install_manually" => Ok(Action::InstallManually { package: argument.parse().map_err(|_| bad)? }),
        "repair_install" => Ok(Action::RepairInstall { media: argument.parse().map_err(|_| bad)? }),
        "reset_pc" => parse_reset(argument).map(Action::ResetPc).ok_or(bad),
        unknown => Err(TextError::UnknownAction(unknown.chars().take(64).collect())),
    }
}

fn parse_reset(argument: &str) -> Option<ResetPc> {
    let mut words = argument.split(' ');
    let method = match words.next()? {
        "keep-files" => ResetMethod::KeepFiles,
        "remove-everything" => ResetMethod::RemoveEverything,
        _ => return None,
    };
    let source = match words.next()? {
        "local" => ResetSource::Local,
        "cloud" => ResetSource::Cloud,
        _ => return None,
    };
    let keep_provisioning = match words.next()? {
        "with-provisioning" => true,
        "without-provisioning" => false,
        _ => return None,
    };
    words.next().is_none().then_some(ResetPc { method, source, keep_provisioning })
}

/// Reads `name value` lines in order and counts them for error messages.
struct Lines<'a> {
    lines: std::str::Split<'a, char>,
    line: usize,
}

impl<'a> Lines<'a> {
    fn field(&mut self, name: &'static str) -> Result<&'a str, TextError> {
        self.line += 1;
        self.lines
            .next()
            .and_then(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .ok_or(TextError::Line { line: self.line, expected: name })
    }

    /// Parses a field and demands that it is printed as we print it, so that one order has one text.
    fn exact<T: FromStr + ToString>(&mut self, name: &'static str) -> Result<T, TextError> {
        let text = self.field(name)?;
        let error = TextError::Line { line: self.line, expected: name };
        let value: T = text.parse().map_err(|_| error.clone())?;
        if value.to_string() == text { Ok(value) } else { Err(error) }
    }

    fn optional<T: FromStr + ToString>(&mut self, name: &'static str) -> Result<Option<T>, TextError> {
        let mut ahead = Lines { lines: self.lines.clone(), line: self.line };
        if ahead.field(name)? == "-" {
            *self = ahead;
            return Ok(None);
        }
        self.exact(name).map(Some)
    }

    fn time(&mut self, name: &'static str) -> Result<DateTime<Utc>, TextError> {
        let text = self.field(name)?;
        let error = TextError::Line { line: self.line, expected: name };
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| error.clone())?.to_utc();
        if time.to_rfc3339_opts(SecondsFormat::Micros, true) == text { Ok(time) } else { Err(error) }
    }
}

impl FromStr for OrderText {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.strip_suffix('\n').ok_or(TextError::Line { line: 1, expected: "a newline at the end" })?;
        let mut lines = Lines { lines: body.split('\n'), line: 1 };
        if lines.lines.next() != Some(TYPE_LINE) {
            return Err(TextError::Line { line: 1, expected: TYPE_LINE });
        }
        let fleet = FleetId(lines.exact("fleet")?);
        let device = DeviceId(lines.exact("device")?);
        let order = OrderId(lines.exact("order")?);
        let incident = IncidentId(lines.exact("incident")?);
        let fence = Fence(lines.exact("fence")?);
        let not_before = lines.time("not-before")?;
        let not_after = lines.time("not-after")?;
        let name = lines.field("action")?;
        let action = parse_action(name, lines.field("argument")?)?;
        let update_id = lines.optional("update-id")?;
        let revision = lines.exact("revision")?;
        let kb = lines.optional("kb")?;
        if lines.lines.next().is_some() {
            return Err(TextError::Line { line: lines.line + 1, expected: "the end" });
        }
        Ok(Self { fleet, device, order, incident, fence, not_before, not_after, action, update_id, revision, kb })
    }
}
