//! The controller's configuration file: read, checked as a whole, and turned into settings. `cli` calls it before anything
//! else happens; everybody else gets [`Config`] and never looks at files, environment or defaults.
//!
//! Three stages: fragments (TOML, every key optional, no unknown one), defaults laid under them, then the checks. A file
//! that fails any of them is refused whole, before a port opens.
//!
//! SECURITY: secrets stand in files of their own; this one names them. `Debug` shows no password of a database.

mod example;
mod limits;
mod read;
mod section;
mod units;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use fleetmend_domain::policy::Policy;
use fleetmend_proto::FleetId;

use crate::secret::shown_url;

pub use limits::{Limits, OperatorLimits};
pub use read::ConfigError;
pub use section::Key;
pub use units::{Size, Span};

pub(crate) use section::section;

/// Everything `fleetmend serve` needs to know. Made by [`Config::load`] or [`Config::new`] only.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub fleet: FleetId,
    pub database: DatabaseUrl,
    /// Folder of vetted update packages (tier 5).
    pub packages: PathBuf,
    pub listen: Listen,
    pub files: Files,
    pub limits: ListenerLimits,
    pub enrollment: EnrollmentSettings,
    pub drain: DrainSettings,
    pub policy: Policy,
}

/// Where the three listeners bind, and the names their certificate bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub names: Vec<String>,
    pub enrollment: SocketAddr,
    pub agents: SocketAddr,
    pub operators: SocketAddr,
}

/// Key and certificate files, absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM: the online agent CA, then its root.
    pub agent_ca: PathBuf,
    pub agent_ca_key: PathBuf,
    /// PEM: the server certificate, then its root, by which commands on this machine check it.
    pub server: PathBuf,
    pub server_key: PathBuf,
    /// 32-byte seed in hex.
    pub order_key: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListenerLimits {
    pub agents: Limits,
    pub enrollment: Limits,
    pub operators: OperatorLimits,
}

section!(
    /// How fast devices may enrol.
    EnrollmentSettings, EnrollmentFragment {
        per_address_per_second: u32 = 5, "enrolments of one address each second";
        per_second: u32 = 50, "enrolments each second, all addresses together";
    }
);

section!(
    /// How agents are sent away, at shutdown and now and then.
    DrainSettings, DrainFragment {
        grace: Span = Span::seconds(30), "for open connections to end after a stop was asked for; then they are cut";
        reconnect_window: Span = Span::seconds(60), "agents are told to come back spread over this time, at most \"1m\"";
        age_min: Span = Span::hours(6), "an agent's stream is sent away after between this";
        age_max: Span = Span::hours(12), "and this, drawn for each, so that replicas stay balanced";
        directives_buffered: usize = 64, "directives waiting for a slow agent; one more ends its stream";
    }
);

impl Config {
    /// The configuration of a new fleet with defaults alone.
    #[must_use]
    pub fn new(data_dir: &Path, fleet: FleetId) -> Self {
        read::Fragments::default().settle(data_dir.to_owned(), fleet, Path::new("/"))
    }

    /// Reads and checks a file. Relative paths in it start at the file's folder.
    ///
    /// # Errors
    /// What is wrong, with the file, the line and the key.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        read::load(file)
    }

    /// Reads and checks a text as if it stood in `file`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        read::parse(text, file)
    }

    /// An example file that explains every key and sets each to its default.
    #[must_use]
    pub fn example() -> String {
        example::text(&example::Filled::default())
    }

    /// The file `fleetmend init` writes: the example with what init decided filled in.
    #[must_use]
    pub fn file_text(&self) -> String {
        example::text(&example::Filled::from_config(self))
    }
}

/// Where the database is. May hold a password, so it is shown without one.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The whole URL, password included: for the store alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it names an engine that this controller works with.
    #[must_use]
    pub fn known(&self) -> bool {
        ["sqlite://", "postgres://", "postgresql://"].iter().any(|scheme| self.0.starts_with(scheme))
    }

    #[must_use]
    pub fn is_sqlite(&self) -> bool {
        self.0.starts_with("sqlite://")
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_url(&self.0))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
