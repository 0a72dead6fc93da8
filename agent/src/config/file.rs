//! The config file as text: serde types, defaults, and the checks that turn them into `Config`. Used by `config` alone.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fleetmend_proto::{FleetId, Tier, order::OrderVerifier};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Config, ConfigError, LinkSettings};
use crate::{
    guard::LocalPolicy,
    link::{BackoffSettings, ChannelSettings, Endpoint, ServerRoot},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(deserialize_with = "by_text")]
    enrollment_url: Endpoint,
    #[serde(deserialize_with = "by_text")]
    agent_url: Endpoint,
    server_root: PathBuf,
    fleet: FleetId,
    #[serde(deserialize_with = "keys_by_text")]
    order_keys: Vec<OrderVerifier>,
    data_dir: PathBuf,
    enrollment_token_file: Option<PathBuf>,
    package_folder: Option<PathBuf>,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    detect: Detect,
    #[serde(default)]
    link: Link,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Policy {
    max_tier: Tier,
    halt: bool,
    register_libraries: bool,
    log_dir: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Detect {
    #[serde(deserialize_with = "duration")]
    interval: Duration,
    #[serde(deserialize_with = "duration")]
    condition_interval: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Link {
    #[serde(deserialize_with = "duration")]
    connect_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    call_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    keepalive_interval: Duration,
    #[serde(deserialize_with = "duration")]
    keepalive_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    backoff_base: Duration,
    #[serde(deserialize_with = "duration")]
    backoff_cap: Duration,
    #[serde(deserialize_with = "duration")]
    first_connect_within: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let LocalPolicy { max_tier, halt, register_libraries, log_dir } = LocalPolicy::default();
        Self { max_tier, halt, register_libraries, log_dir }
    }
}

impl Default for Detect {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5 * 60), condition_interval: Duration::from_secs(24 * 3600) }
    }
}

impl Default for Link {
    fn default() -> Self {
        let channel = ChannelSettings::default();
        let backoff = BackoffSettings::default();
        Self {
            connect_timeout: channel.connect_timeout,
            call_timeout: channel.call_timeout,
            keepalive_interval: channel.keepalive_interval,
            keepalive_timeout: channel.keepalive_timeout,
            backoff_base: backoff.base,
            backoff_cap: backoff.cap,
            first_connect_within: Duration::from_secs(60),
        }
    }
}

pub(super) fn read(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
        let message = error.message().replace('\n', " ");
        // A value's own message does not say whose value it is.
        let key = text.lines().nth(before).and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
        let message = match key.filter(|key| !key.starts_with('#') && !message.contains(*key)) {
            Some(key) => format!("key {key}: {message}"),
            None => message,
        };
        ConfigError::Syntax { path: path.to_owned(), line: before + 1, message }
    })
}

impl File {
    pub(super) fn checked(self, path: &Path) -> Result<Config, ConfigError> {
        let wrong = |key, reason: &str| ConfigError::Value { path: path.to_owned(), key, reason: reason.to_owned() };
        if self.order_keys.is_empty() {
            return Err(wrong("order_keys", "is empty: without one, no order could be verified"));
        }
        let positive = [
            ("detect.interval", self.detect.interval),
            ("detect.condition_interval", self.detect.condition_interval),
            ("link.connect_timeout", self.link.connect_timeout),
            ("link.call_timeout", self.link.call_timeout),
            ("link.keepalive_interval", self.link.keepalive_interval),
            ("link.keepalive_timeout", self.link.keepalive_timeout),
            ("link.backoff_base", self.link.backoff_base),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, it)| it.is_zero()) {
            return Err(wrong(key, "must be longer than 0s"));
        }
        if self.link.backoff_cap < self.link.backoff_base {
            return Err(wrong("link.backoff_cap", "must not be shorter than link.backoff_base"));
        }
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let beside = |it: PathBuf| folder.join(it);
        let server_root = ServerRoot::from_file(&beside(self.server_root))
            .map_err(|source| ConfigError::ServerRoot { path: path.to_owned(), source })?;
        let Policy { max_tier, halt, register_libraries, log_dir } = self.policy;
        let stable_after = BackoffSettings::default().stable_after;
        Ok(Config {
            enrollment: self.enrollment_url,
            agent: self.agent_url,
            server_root,
            fleet: self.fleet,
            order_keys: self.order_keys,
            data_dir: beside(self.data_dir),
            enrollment_token_file: self.enrollment_token_file.map(beside),
            package_folder: self.package_folder.map(beside),
            policy: LocalPolicy { max_tier, halt, register_libraries, log_dir },
            detect_interval: self.detect.interval,
            condition_interval: self.detect.condition_interval,
            link: LinkSettings {
                channel: ChannelSettings {
                    connect_timeout: self.link.connect_timeout,
                    call_timeout: self.link.call_timeout,
                    keepalive_interval: self.link.keepalive_interval,
                    keepalive_timeout: self.link.keepalive_timeout,
                },
                backoff: BackoffSettings { base: self.link.backoff_base, cap: self.link.backoff_cap, stable_after },
                first_connect_within: self.link.first_connect_within,
                ..LinkSettings::default()
            },
        })
    }
}

fn by_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
    D: Deserializer<'de>,
{
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn keys_by_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OrderVerifier>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|_| D::Error::custom(format!("{text:?} is no duration: write it like \"90s\", \"15m\" or \"24h\"")))
}
