//! The demo's controller: a fleet made in its folder, served in this process on free ports of the loopback address.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use chrono::TimeDelta;
use fleetmend_agent::{
    config::{Config as AgentConfig, LinkSettings},
    guard::LocalPolicy,
    link::ServerRoot,
};
use fleetmend_controller::{
    config::{Config, DatabaseUrl},
    pki::{self, InitOptions},
    secret::{self, Kind},
    serve::Controller,
    store::{NewApiToken, NewToken, Store},
};
use fleetmend_domain::policy::Posture;
use fleetmend_proto::{Clock, clock::wall_now};
use tokio_util::sync::CancellationToken;

use super::DemoSettings;
use crate::{ScaledClock, pc::write_packages};

/// A running controller and what its agents and its audience need to know.
pub struct DemoController {
    running: Controller,
    config: Config,
    server_root: std::path::PathBuf,
    order_verifier: String,
    shutdown: CancellationToken,
    enrollment_token: String,
    api_token: String,
    raised: Vec<String>,
}

impl DemoController {
    pub async fn start(dir: &Path, settings: &DemoSettings, clock: Arc<ScaledClock>) -> anyhow::Result<Self> {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let database = match &settings.database_url {
            Some(url) => url.clone(),
            None => format!("sqlite://{}", std::path::absolute(dir)?.join("controller.db").display()),
        };
        let options = InitOptions {
            enrollment: Some(any_port),
            agents: Some(any_port),
            operators: Some(any_port),
            database: Some(DatabaseUrl::new(database)),
            ..InitOptions::new(dir, wall_now())
        };
        let made = pki::init(&options).context("making a fleet for the demo")?;
        let mut config = made.config;
        config.policy.posture = Posture::Recommended;
        let raised = raise_rates(&mut config, settings.devices, settings.speed);
        write_packages(&config.packages).context("writing the demo's packages")?;
        // A service waits for its database; somebody who tries a demo wants to hear what is wrong.
        Store::connect(config.database.expose()).await?.close().await;
        let shutdown = CancellationToken::new();
        let domain_now = clock.now();
        let running = Controller::start(config.clone(), clock, shutdown.clone()).await?;
        let (enrollment_token, api_token) = (secret::new(Kind::Enrollment), secret::new(Kind::Api));
        let expires_at = wall_now() + TimeDelta::days(1);
        let by = "demo".to_owned();
        let token = NewToken {
            hash: secret::hash(&enrollment_token),
            uses: settings.devices,
            expires_at,
            ring: "default".to_owned(),
            preapproved: true,
            created_by: by.clone(),
            note: "demo".to_owned(),
            now: domain_now,
        };
        running.store().token_insert(token).await?;
        let token = NewApiToken {
            hash: secret::hash(&api_token),
            name: by.clone(),
            role: "operator".to_owned(),
            expires_at,
            created_by: by,
            now: domain_now,
        };
        running.store().api_token_insert(token).await?;
        let (server_root, order_verifier) = (made.server_root, made.order_verifier);
        Ok(Self { running, config, server_root, order_verifier, shutdown, enrollment_token, api_token, raised })
    }

    pub fn store(&self) -> &Store {
        self.running.store()
    }

    pub fn database_url(&self) -> String {
        self.config.database.expose().to_owned()
    }

    pub fn enrollment_token(&self) -> &str {
        &self.enrollment_token
    }

    /// Outcomes that arrived once more than needed.
    pub fn duplicates(&self) -> u64 {
        self.running.duplicates()
    }

    /// What people need to look at it, and what is not as shipped.
    pub fn announcement(&self) -> String {
        let url = format!("https://localhost:{}", self.running.addresses().operators.port());
        let (token, root) = (&self.api_token, self.server_root.display());
        let raised = self.raised.join("\n    ");
        format!(
            "operator API   {url}/api/v1\nsign-in token  {token}\nserver root    {root}\n  \
             try: curl --cacert {root} -H \"Authorization: Bearer {token}\" {url}/api/v1/incidents\n\
             rates raised for many devices at one address (sizes and time-outs are as shipped):\n    {raised}\n"
        )
    }

    /// The configuration of the agents, but for their data folders.
    pub fn agent_config(&self, speed: f64) -> anyhow::Result<AgentConfig> {
        let addresses = self.running.addresses();
        // Often enough in real time to be lively, seldom enough for hundreds of PCs on two cores.
        let look = Duration::from_secs_f64(speed).max(Duration::from_secs(5 * 60));
        Ok(AgentConfig {
            enrollment: format!("https://localhost:{}", addresses.enrollment.port()).parse()?,
            agent: format!("https://localhost:{}", addresses.agents.port()).parse()?,
            server_root: ServerRoot::from_file(&self.server_root)?,
            fleet: self.config.fleet,
            order_keys: vec![self.order_verifier.parse()?],
            data_dir: self.config.data_dir.clone(),
            enrollment_token_file: None,
            package_folder: Some(self.config.packages.clone()),
            policy: LocalPolicy::default(),
            detect_interval: look,
            condition_interval: Duration::from_secs(24 * 3600).max(look),
            link: LinkSettings { first_connect_within: Duration::from_secs(1), ..LinkSettings::default() },
        })
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.running.finished().await;
    }
}

/// Raises rates, and nothing else, to what a fleet in fast time and at one address needs. Says which.
fn raise_rates(config: &mut Config, devices: u32, speed: f64) -> Vec<String> {
    let mut raised = Vec::new();
    let mut raise = |key: &str, rate: &mut u32, least: u32| {
        if *rate != 0 && *rate < least {
            raised.push(format!("{key} = {least} (as shipped: {rate})"));
            *rate = least;
        }
    };
    let burst = devices.max(100);
    raise("enrollment.per_address_per_second", &mut config.enrollment.per_address_per_second, burst);
    raise("enrollment.per_second", &mut config.enrollment.per_second, burst);
    raise("limits.enrollment.accepts_per_second", &mut config.limits.enrollment.accepts_per_second, burst);
    raise("limits.agents.accepts_per_second", &mut config.limits.agents.accepts_per_second, burst * 2);
    // A day's messages of a device come in seconds.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most a thousand times the shipped rate
    let faster = speed.clamp(1.0, 1_000.0) as u32;
    let agents = &mut config.limits.agents;
    let (per_minute, at_once) = (agents.device_messages_per_minute, agents.device_burst);
    raise("limits.agents.device_messages_per_minute", &mut agents.device_messages_per_minute, per_minute * faster);
    raise("limits.agents.device_burst", &mut agents.device_burst, at_once * 10);
    raised
}
