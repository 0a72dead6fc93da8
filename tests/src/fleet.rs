//! A controller in the test's own process, on free ports, with a database of its own on either engine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use fleetmend_agent::link::{ChannelSettings, ServerRoot};
use fleetmend_controller::{
    config::{Config, DatabaseUrl},
    pki::{self, InitOptions, Initialised},
    secret::{self, Kind},
    serve::Controller,
    store::{NewApiToken, NewToken, Store},
};
use fleetmend_proto::{Clock, SystemClock, clock::wall_now};
use fleetmend_simulator::fleet::light::{LightDevice, LightSettings};
use sqlx::Connection as _;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::postgres;

/// Which database a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Sqlite,
    Postgres,
}

/// A running controller. Stop it with [`TestFleet::stop`]; dropped, it is only told to.
pub struct TestFleet {
    folder: TempDir,
    made: Initialised,
    controller: Option<Controller>,
    shutdown: CancellationToken,
    pub light: Arc<LightSettings>,
}

impl TestFleet {
    /// Starts with the shipped configuration as `change` alters it, rates apart.
    ///
    /// # Errors
    /// When the controller does not start.
    pub async fn start(on: On, change: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        Self::start_in(on, Arc::new(SystemClock), change).await
    }

    /// Like [`TestFleet::start`] with a domain time of its own.
    ///
    /// # Errors
    /// When the controller does not start.
    pub async fn start_in(on: On, clock: Arc<dyn Clock>, change: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir()?;
        let any_port = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let database = match on {
            On::Sqlite => None,
            On::Postgres => Some(DatabaseUrl::new(fresh_database().await?)),
        };
        let options = InitOptions {
            enrollment: any_port,
            agents: any_port,
            operators: any_port,
            database,
            ..InitOptions::new(folder.path().join("data"), wall_now())
        };
        let made = pki::init(&options)?;
        let mut config = made.config.clone();
        config.limits.agents.accepts_per_second = 10_000;
        config.limits.enrollment.accepts_per_second = 10_000;
        config.enrollment.per_second = 10_000;
        config.enrollment.per_address_per_second = 10_000;
        change(&mut config);
        let shutdown = CancellationToken::new();
        let controller = Controller::start(config, clock, shutdown.clone()).await?;
        let addresses = controller.addresses();
        let light = LightSettings {
            enrollment: format!("https://localhost:{}", addresses.enrollment.port()).parse()?,
            agents: format!("https://localhost:{}", addresses.agents.port()).parse()?,
            server_root: ServerRoot::from_file(&made.server_root)?,
            fleet: made.config.fleet,
            order_keys: vec![made.order_verifier.parse().context("reading the order key")?],
            channel: ChannelSettings::default(),
            seed: 7,
        };
        Ok(Self { folder, made, controller: Some(controller), shutdown, light: Arc::new(light) })
    }

    #[must_use]
    pub fn controller(&self) -> &Controller {
        self.controller.as_ref().expect("it runs until stop")
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        self.controller().store()
    }

    #[must_use]
    pub fn made(&self) -> &Initialised {
        &self.made
    }

    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// An enrolment token good for `uses`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn token(&self, uses: u32, preapproved: bool) -> anyhow::Result<String> {
        let token = secret::new(Kind::Enrollment);
        let row = NewToken {
            hash: secret::hash(&token),
            uses,
            expires_at: wall_now() + TimeDelta::hours(1),
            ring: "default".to_owned(),
            preapproved,
            created_by: "test".to_owned(),
            note: String::new(),
            now: wall_now(),
        };
        self.store().token_insert(row).await?;
        Ok(token)
    }

    /// A token of the operators' API.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn api_token(&self, role: &str) -> anyhow::Result<String> {
        let token = secret::new(Kind::Api);
        let row = NewApiToken {
            hash: secret::hash(&token),
            name: "test".to_owned(),
            role: role.to_owned(),
            expires_at: wall_now() + TimeDelta::hours(1),
            created_by: "test".to_owned(),
            now: wall_now(),
        };
        self.store().api_token_insert(row).await?;
        Ok(token)
    }

    /// An enrolled device that needs no approval.
    ///
    /// # Errors
    /// When enrolment fails.
    pub async fn device(&self, index: u32) -> anyhow::Result<LightDevice> {
        let token = self.token(1, true).await?;
        Ok(LightDevice::enroll(self.light.clone(), index, &token).await?)
    }

    /// Drains and stops the controller.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(controller) = self.controller.take() {
            controller.finished().await;
        }
    }
}

impl Drop for TestFleet {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A new database in the shared cluster.
///
/// # Errors
/// When there is no cluster: start the tests by `tests/run`.
pub async fn fresh_database() -> anyhow::Result<String> {
    let shared = postgres::shared_url()?;
    let name = format!("t{}", Uuid::new_v4().simple());
    let mut admin = sqlx::PgConnection::connect(&shared).await.context("connecting to the tests' PostgreSQL")?;
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await?;
    let base = shared.rsplit_once('/').context("the tests' PostgreSQL URL names no database")?.0;
    Ok(format!("{base}/{name}"))
}

/// Waits until `condition` holds.
///
/// # Errors
/// When it does not within `limit`, saying what was waited for.
pub async fn eventually<F, Fut>(what: &str, limit: Duration, mut condition: F) -> anyhow::Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<bool>>,
{
    let started = Instant::now();
    while !condition().await? {
        ensure!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
