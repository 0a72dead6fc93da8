//! From text to settings: the fragments as they stand in the file, the defaults under them, and the checks on the whole.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use chrono::Duration;
use fleetmend_domain::{
    policy::{Policy, Posture, ResetRoute},
    window::Window,
};
use fleetmend_proto::FleetId;
use serde::Deserialize;

use super::{
    Config, DatabaseUrl, DrainFragment, DrainSettings, EnrollmentFragment, EnrollmentSettings, Files, Limits, Listen,
    ListenerLimits, OperatorLimits, Span,
    limits::{LimitsFragment, OperatorLimitsFragment},
    section::section,
};

const MIN_FRAME: u32 = 16 * 1024;
const MAX_FRAME: u32 = (1 << 24) - 1;
const MAX_WINDOW: u32 = i32::MAX.unsigned_abs();
const HELD_FOR_EVER: &str = "without it a client can hold a connection for ever";

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {file}; `fleetmend init` makes one")]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("{file}, line {line}, key {key:?}: {problem}")]
    Malformed { file: PathBuf, line: usize, key: String, problem: String },
    #[error("{file}, key {key:?}: {problem}")]
    Invalid { file: PathBuf, key: &'static str, problem: String },
}

section!(
    /// The rules of `domain::policy` as they stand in the file.
    PolicySettings, PolicyFragment {
        posture: Posture = Policy::default().posture, "\"observe\": decide and show, order nothing; \"recommended\": tiers 1-4 alone, 5 where a package is there; \"full\"";
        reset_route: ResetRoute = Policy::default().reset_route, "how tier 6 goes: \"handover\" to people, or \"signed\" order";
        retry_attempts: u32 = Policy::default().retry_attempts, "attempts of tier 1 in one incident";
        max_attempts: u32 = Policy::default().max_attempts, "attempts of every other tier in one incident";
        max_orders: u32 = Policy::default().max_orders, "orders one incident may cost";
        incident_deadline: Span = span(Policy::default().incident_deadline), "an incident lives at most this long";
        retry_backoff: Vec<Span> = Policy::default().retry_backoff.into_iter().map(span).collect(), "before the 2nd, 3rd, ... attempt of tier 1";
        cooldown_light: Span = span(Policy::default().cooldown_light), "after an order of tier 1 or 2";
        cooldown_heavy: Span = span(Policy::default().cooldown_heavy), "after an order of tier 3 or above";
        verify_deadline: Span = span(Policy::default().verify_deadline), "for Windows' own word on the update, then it counts as still failing";
        order_expiry: Span = span(Policy::default().order_expiry), "an order waits this long for its device";
        run_deadline: Span = span(Policy::default().run_deadline), "an order that began may run this long";
        hide_after: u32 = Policy::default().hide_after, "a harmless offer that failed this often is hidden";
        reset_evidence_age: Span = span(Policy::default().reset_evidence_age), "evidence for a reset must be this young";
        windows: Vec<Window> = Policy::default().windows, "when restarts and tier 5 may run, by each device's own clock, as in [\"mon-fri 22:00-05:00\", \"sat,sun 00:00-24:00\"]; none = at any time";
        version: u32 = Policy::default().version, "recorded with each decision: raise it with each change here";
    }
);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fragments {
    data_dir: Option<PathBuf>,
    fleet: Option<FleetId>,
    database_url: Option<String>,
    database_url_file: Option<PathBuf>,
    packages: Option<PathBuf>,
    listen: ListenFragment,
    files: FilesFragment,
    limits: AllLimitsFragment,
    enrollment: EnrollmentFragment,
    drain: DrainFragment,
    policy: PolicyFragment,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListenFragment {
    names: Option<Vec<String>>,
    enrollment: AddressFragment,
    agents: AddressFragment,
    operators: AddressFragment,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AddressFragment {
    addr: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FilesFragment {
    agent_ca: Option<PathBuf>,
    agent_ca_key: Option<PathBuf>,
    server: Option<PathBuf>,
    server_key: Option<PathBuf>,
    order_key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AllLimitsFragment {
    agents: LimitsFragment,
    enrollment: LimitsFragment,
    operators: OperatorLimitsFragment,
}

pub(super) fn load(file: &Path) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    parse(&text, file)
}

pub(super) fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    let mut fragments: Fragments = toml::from_str(text).map_err(|error| malformed(text, file, &error))?;
    let invalid = |key, problem: &str| ConfigError::Invalid { file: file.to_owned(), key, problem: problem.to_owned() };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder =
        std::path::absolute(folder).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    let data_dir = fragments.data_dir.take().ok_or_else(|| invalid("data_dir", "is missing: where to keep data"))?;
    let fleet =
        fragments.fleet.take().ok_or_else(|| invalid("fleet", "is missing: `fleetmend init` makes a fleet id"))?;
    if let Some(url_file) = fragments.database_url_file.take() {
        if fragments.database_url.is_some() {
            return Err(invalid("database_url_file", "stands beside database_url: keep one of them"));
        }
        let url_file = folder.join(url_file);
        let url = fs::read_to_string(&url_file)
            .map_err(|error| invalid("database_url_file", &format!("cannot read {}: {error}", url_file.display())))?;
        fragments.database_url = Some(url.trim().to_owned());
    }
    let config = fragments.settle(folder.join(data_dir), fleet, &folder);
    check(&config).map_err(|(key, problem)| ConfigError::Invalid { file: file.to_owned(), key, problem })?;
    Ok(config)
}

impl Fragments {
    /// Lays the defaults under what was written. `folder`: where relative paths start.
    pub(super) fn settle(self, data_dir: PathBuf, fleet: FleetId, folder: &Path) -> Config {
        let inside =
            |given: Option<PathBuf>, name: &str| given.map_or_else(|| data_dir.join(name), |path| folder.join(path));
        let listen = self.listen;
        let addr = |given: AddressFragment, port| given.addr.unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));
        let default_url = || format!("sqlite://{}", data_dir.join("controller.db").display());
        Config {
            fleet,
            database: DatabaseUrl::new(self.database_url.unwrap_or_else(default_url)),
            packages: inside(self.packages, "packages"),
            listen: Listen {
                names: listen.names.unwrap_or_else(|| ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec()),
                enrollment: addr(listen.enrollment, 7441),
                agents: addr(listen.agents, 7442),
                operators: addr(listen.operators, 7443),
            },
            files: Files {
                agent_ca: inside(self.files.agent_ca, "pki/agent_ca.pem"),
                agent_ca_key: inside(self.files.agent_ca_key, "pki/agent_ca.key"),
                server: inside(self.files.server, "pki/server.pem"),
                server_key: inside(self.files.server_key, "pki/server.key"),
                order_key: inside(self.files.order_key, "pki/order.key"),
            },
            limits: ListenerLimits {
                agents: self.limits.agents.over(Limits::default()),
                enrollment: self.limits.enrollment.over(Limits::enrollment()),
                operators: self.limits.operators.over(OperatorLimits::default()),
            },
            enrollment: self.enrollment.over(EnrollmentSettings::default()),
            drain: self.drain.over(DrainSettings::default()),
            policy: policy(self.policy.over(PolicySettings::default())),
            data_dir,
        }
    }
}

fn policy(settings: PolicySettings) -> Policy {
    Policy {
        posture: settings.posture,
        reset_route: settings.reset_route,
        retry_attempts: settings.retry_attempts,
        max_attempts: settings.max_attempts,
        max_orders: settings.max_orders,
        incident_deadline: domain(settings.incident_deadline),
        retry_backoff: settings.retry_backoff.into_iter().map(domain).collect(),
        cooldown_light: domain(settings.cooldown_light),
        cooldown_heavy: domain(settings.cooldown_heavy),
        verify_deadline: domain(settings.verify_deadline),
        order_expiry: domain(settings.order_expiry),
        run_deadline: domain(settings.run_deadline),
        hide_after: settings.hide_after,
        reset_evidence_age: domain(settings.reset_evidence_age),
        windows: settings.windows,
        version: settings.version,
    }
}

fn span(duration: Duration) -> Span {
    Span(duration.to_std().unwrap_or_default())
}

/// Centuries are cut to one: no rule waits longer, and sums of times stay in range.
fn domain(span: Span) -> Duration {
    Duration::from_std(span.0).map_or(Duration::days(36_500), |given| given.min(Duration::days(36_500)))
}

/// What no single key can know: values that forbid each other or that the protocols forbid.
fn check(config: &Config) -> Result<(), (&'static str, String)> {
    if !config.database.known() {
        return Err(("database_url", "begin it with sqlite:// or postgres://".to_owned()));
    }
    if config.listen.names.is_empty() {
        return Err(("listen.names", "agents need at least one name to reach this controller by".to_owned()));
    }
    if config.drain.reconnect_window > Span::minutes(1) {
        return Err(("drain.reconnect_window", "at most \"1m\"".to_owned()));
    }
    if config.drain.age_min > config.drain.age_max || config.drain.age_min.or_off().is_none() {
        return Err(("drain.age_min", "more than \"0s\" and no more than drain.age_max".to_owned()));
    }
    let operators = &config.limits.operators;
    let at_least_one = [
        ("limits.operators.max_connections", operators.max_connections),
        ("limits.operators.max_handshakes", operators.max_handshakes),
        ("limits.operators.accepts_per_second", operators.accepts_per_second as usize),
        ("limits.operators.max_concurrent_streams", operators.max_concurrent_streams as usize),
        ("limits.operators.max_header_list", operators.max_header_list.bytes()),
        ("limits.operators.max_body", operators.max_body.bytes()),
        ("drain.directives_buffered", config.drain.directives_buffered),
        ("enrollment.per_second", config.enrollment.per_second as usize),
        ("enrollment.per_address_per_second", config.enrollment.per_address_per_second as usize),
    ];
    if let Some((key, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
        return Err((key, "at least 1".to_owned()));
    }
    let spans = [
        ("limits.operators.handshake_timeout", operators.handshake_timeout),
        ("limits.operators.first_request_timeout", operators.first_request_timeout),
        ("limits.operators.request_timeout", operators.request_timeout),
    ];
    if let Some((key, _)) = spans.into_iter().find(|(_, value)| value.or_off().is_none()) {
        return Err((key, format!("must be more than \"0s\": {HELD_FOR_EVER}")));
    }
    check_limits("limits.agents", &config.limits.agents)?;
    check_limits("limits.enrollment", &config.limits.enrollment)
}

fn check_limits(table: &'static str, limits: &Limits) -> Result<(), (&'static str, String)> {
    let at_least_one = [
        ("max_connections", limits.max_connections),
        ("max_handshakes", limits.max_handshakes),
        ("accepts_per_second", limits.accepts_per_second as usize),
        ("max_concurrent_streams", limits.max_concurrent_streams as usize),
        ("concurrency_per_connection", limits.concurrency_per_connection),
        ("device_burst", limits.device_burst as usize),
        ("max_header_list", limits.max_header_list.bytes()),
        ("max_decoding", limits.max_decoding.bytes()),
        ("max_encoding", limits.max_encoding.bytes()),
    ];
    if let Some((key, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
        return Err((table, format!("{key} must be at least 1")));
    }
    let spans = [
        ("handshake_timeout", limits.handshake_timeout),
        ("first_request_timeout", limits.first_request_timeout),
        ("unary_timeout", limits.unary_timeout),
    ];
    if let Some((key, _)) = spans.into_iter().find(|(_, value)| value.or_off().is_none()) {
        return Err((table, format!("{key} must be more than \"0s\": {HELD_FOR_EVER}")));
    }
    if !(MIN_FRAME..=MAX_FRAME).contains(&limits.max_frame.0) {
        return Err((table, "max_frame must be 16KiB to 16777215 (RFC 9113, 4.2)".to_owned()));
    }
    for (key, window) in [("stream_window", limits.stream_window), ("connection_window", limits.connection_window)] {
        if !(1..=MAX_WINDOW).contains(&window.0) {
            return Err((table, format!("{key} must be 1 to 2147483647 (RFC 9113, 6.9.1)")));
        }
    }
    Ok(())
}

/// Names the key: the parser's own message does so only for unknown ones.
fn malformed(text: &str, file: &Path, error: &toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let written = text.lines().nth(line - 1).unwrap_or_default();
    let table = text.lines().take(line - 1).map(str::trim).filter(|line| line.starts_with('[')).last();
    let name = written.split(['=', '#']).next().unwrap_or_default().trim();
    let key = match table {
        _ if name.starts_with('[') => name.trim_matches(['[', ']']).to_owned(),
        Some(table) => format!("{}.{name}", table.split(']').next().unwrap_or_default().trim_matches('[')),
        None => name.to_owned(),
    };
    ConfigError::Malformed { file: file.to_owned(), line, key, problem: error.message().to_owned() }
}
