//! The agent's settings: the file as people write it, and `Config` as the agent uses it, checked and with the trust
//! anchors loaded. Read once at start; nothing from the wire ever changes it.

mod file;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fleetmend_proto::{FleetId, order::OrderVerifier};

use crate::{
    guard::LocalPolicy,
    link::{BackoffSettings, ChannelSettings, Endpoint, ServerRoot, ServerRootError},
};

/// The settings that `check-config --example` prints; a test parses them.
pub const EXAMPLE: &str = include_str!("example.toml");

/// Everything an agent is told by its installation.
#[derive(Clone, Debug)]
pub struct Config {
    pub enrollment: Endpoint,
    pub agent: Endpoint,
    /// Clones share it: a thousand agents in one process parse it once.
    pub server_root: ServerRoot,
    pub fleet: FleetId,
    pub order_keys: Vec<OrderVerifier>,
    pub data_dir: PathBuf,
    pub enrollment_token_file: Option<PathBuf>,
    pub package_folder: Option<PathBuf>,
    pub policy: LocalPolicy,
    /// Domain time.
    pub detect_interval: Duration,
    /// Domain time.
    pub condition_interval: Duration,
    pub link: LinkSettings,
}

/// The link's time-outs and waits: link time, always real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    pub channel: ChannelSettings,
    pub backoff: BackoffSettings,
    /// The first connection after a start of the operating system is made at a random time within this.
    pub first_connect_within: Duration,
    /// How long an order's end waits for its proof to be acknowledged. No key of the file.
    pub proof_timeout: Duration,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            channel: ChannelSettings::default(),
            backoff: BackoffSettings::default(),
            first_connect_within: Duration::ZERO,
            proof_timeout: Duration::from_secs(120),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("config file {path} cannot be read: give the right one with --config")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("config file {path}, line {line}: {message}")]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("config file {path}: key {key}: {reason}")]
    Value { path: PathBuf, key: &'static str, reason: String },
    #[error("config file {path}: key server_root cannot be used")]
    ServerRoot {
        path: PathBuf,
        #[source]
        source: ServerRootError,
    },
}

impl Config {
    /// Reads, checks and loads what the file names.
    ///
    /// # Errors
    /// A [`ConfigError`] that names file, key and line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        Self::parse(path, &std::fs::read_to_string(path).map_err(unreadable)?)
    }

    /// Like [`Config::load`] with the text at hand; relative paths start at `path`'s folder.
    ///
    /// # Errors
    /// A [`ConfigError`] that names file, key and line.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        file::read(path, text)?.checked(path)
    }
}

#[cfg(test)]
mod tests;
