//! What commands on the controller's own machine share: its configuration, its database, its first operator token.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::Args;

use super::exit::{Code, Failure};
use crate::{
    chain::chain,
    config::{Config, ConfigError},
    store::{Store, StoreError},
};

/// Where the configuration is looked for when nobody says.
const PLACES: [&str; 2] = ["fleetmend.toml", "/etc/fleetmend/fleetmend.toml"];
/// The token that `init` made, beside the rest of the data.
pub const OPERATOR_TOKEN_FILE: &str = "operator.token";

/// `--config`, the same for every command that reads the configuration.
#[derive(Clone, Debug, Default, Args)]
pub struct Local {
    /// The controller's configuration [default: ./fleetmend.toml, then /etc/fleetmend/fleetmend.toml]
    #[arg(long, env = "FLEETMEND_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How the controller of this configuration is reached from this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorAccess {
    pub url: String,
    /// PEM that holds the root of the server certificate.
    pub ca: PathBuf,
    pub token_file: PathBuf,
}

impl Local {
    /// The file: the one given, or the first of the usual places that is there.
    ///
    /// # Errors
    /// 64 when there is none.
    pub fn file(&self) -> Result<&Path, Failure> {
        if let Some(file) = &self.config {
            return Ok(file);
        }
        PLACES.into_iter().map(Path::new).find(|place| place.is_file()).ok_or_else(|| {
            Failure::new(Code::Usage, format_args!("there is no configuration at {}", PLACES.join(" or ")))
                .hint("name it with --config FILE, or make one: fleetmend init --data-dir DIR")
        })
    }

    /// # Errors
    /// 64 with the file and the key.
    pub fn load(&self) -> Result<Config, Failure> {
        Config::load(self.file()?).map_err(|error: ConfigError| Failure::from_error(Code::Usage, &error.into()))
    }

    /// # Errors
    /// As [`Local::load`].
    pub fn operator_access(&self) -> Result<OperatorAccess, Failure> {
        let config = self.load()?;
        Ok(OperatorAccess {
            url: format!("https://{}", reachable(config.listen.operators)),
            ca: config.files.server,
            token_file: config.data_dir.join(OPERATOR_TOKEN_FILE),
        })
    }

    /// Runs `work` on the configured database, whose schema must fit this binary.
    ///
    /// # Errors
    /// 64, 69 or 70; see [`store_failure`].
    pub fn with_store<T, F, Fut>(&self, work: F) -> Result<T, Failure>
    where
        F: FnOnce(Store) -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let config = self.load()?;
        block_on(async {
            let store = Store::connect(config.database.expose()).await?;
            let done = async {
                store.schema_check().await?;
                store.fleet_ensure(config.fleet).await?;
                work(store.clone()).await
            }
            .await;
            store.close().await;
            done
        })?
        .map_err(|error| store_failure(&error))
    }
}

/// Runs one piece of asynchronous work on this thread.
///
/// # Errors
/// 70 when the runtime cannot start.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Code::Internal, format_args!("cannot start the runtime: {error}")))?;
    Ok(runtime.block_on(work))
}

/// The exit code and message of a store's error.
#[must_use]
pub fn store_failure(error: &StoreError) -> Failure {
    let code = match error {
        StoreError::BadUrl { .. }
        | StoreError::NewerSchema { .. }
        | StoreError::OlderSchema { .. }
        | StoreError::OtherFleet { .. } => Code::Usage,
        StoreError::Unreachable { .. } | StoreError::Busy { .. } => Code::Unreachable,
        StoreError::NotFound { .. } => Code::NotFound,
        StoreError::Conflict { .. } | StoreError::Invalid { .. } => Code::Data,
        StoreError::Corrupt { .. } | StoreError::Database { .. } => Code::Internal,
    };
    Failure::new(code, chain(error))
}

/// An address that says "every interface" is reached over loopback.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listener.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_interface_is_reached_over_loopback() {
        let cases = [("0.0.0.0:7443", "127.0.0.1:7443"), ("[::]:7443", "[::1]:7443"), ("10.1.2.3:443", "10.1.2.3:443")];
        for (listener, reached) in cases {
            let listener = listener.parse().expect("an address");
            assert_eq!(reachable(listener).to_string(), reached);
        }
    }

    #[test]
    fn a_missing_configuration_says_how_to_make_one() {
        let local = Local { config: Some("/nonexistent/fleetmend.toml".into()) };
        let failure = local.load().expect_err("there is none");
        assert_eq!(failure.code(), Code::Usage);
        assert!(failure.to_string().contains("/nonexistent/fleetmend.toml"), "{failure}");
    }
}
