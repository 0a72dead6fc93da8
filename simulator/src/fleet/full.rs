//! Full PCs: each is a model that lives by itself and, on it, the real agent, started again after every restart and power
//! loss as a service manager would.

use std::{path::PathBuf, sync::Arc, time::Duration};

use fleetmend_agent::{
    config::Config,
    runner::{self, AgentParts},
};
use fleetmend_proto::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::pc::{AgentView, Habits, Options, Pc, log::LogError, profile::Profile};

/// More would fill a process with timers and files rather than show anything new.
pub const MAX_FULL: u32 = 1_000;

/// From power to the start of the agent's service, in domain time.
const START_UP: Duration = Duration::from_secs(60);
/// A service manager's wait before it starts a failed agent again. Link time.
const RESTART_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// What full PCs are made of.
#[derive(Clone)]
pub struct FleetSettings {
    /// Holds `pcs/NNNNN` (the PC) and `agents/NNNNN` (the agent's data folder).
    pub dir: PathBuf,
    pub first: u32,
    pub count: u32,
    pub seed: u64,
    pub clock: Arc<dyn Clock>,
    /// Every agent's configuration but for its data folder and token file.
    pub agent: Config,
    /// Enrolment token; each agent gets a file of its own with it, unless it has an identity already.
    pub token: Option<String>,
    pub habits: Habits,
    /// Sync the PCs' own logs.
    pub fsync: bool,
}

/// Why PCs cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error(
        "a process simulates at most {MAX_FULL} full PCs, {0} were asked for: start several with `pcs`, or use light devices"
    )]
    TooMany(u32),
    #[error("the folder of a PC cannot be used")]
    Pc(#[from] LogError),
    #[error("cannot write {}", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Full PCs at work.
pub struct Fleet {
    settings: FleetSettings,
    pcs: Vec<Arc<Pc>>,
    lives: JoinSet<()>,
    agents: JoinSet<()>,
    stop_lives: CancellationToken,
    stop_agents: CancellationToken,
}

impl Fleet {
    /// Switches the PCs on, as they were left or new.
    ///
    /// # Errors
    /// [`FleetError`] where a folder cannot be used.
    pub fn start(settings: FleetSettings) -> Result<Self, FleetError> {
        if settings.count > MAX_FULL {
            return Err(FleetError::TooMany(settings.count));
        }
        let (stop_lives, stop_agents) = (CancellationToken::new(), CancellationToken::new());
        let (mut pcs, mut lives, mut agents) = (Vec::new(), JoinSet::new(), JoinSet::new());
        for index in settings.first..settings.first.saturating_add(settings.count) {
            let options = Options { fsync: settings.fsync, packages: settings.agent.package_folder.clone() };
            let profile = Profile::new(settings.seed, index);
            let pc = Pc::open(&settings.pc_dir(index), profile, Arc::clone(&settings.clock), options)?;
            let config = settings.agent_config(index)?;
            pcs.push(Arc::clone(&pc));
            lives.spawn(live(Arc::clone(&pc), settings.habits.clone(), stop_lives.clone()));
            agents.spawn(keep_agent(pc, config, Arc::clone(&settings.clock), stop_agents.clone()));
        }
        Ok(Self { settings, pcs, lives, agents, stop_lives, stop_agents })
    }

    #[must_use]
    pub fn pcs(&self) -> &[Arc<Pc>] {
        &self.pcs
    }

    /// No further update arrives; what is open goes on.
    pub fn no_more_failures(&self) {
        self.settings.habits.no_more_failures.cancel();
    }

    /// Stops agents and PCs in good order; what they run ends first. The PCs stay readable.
    pub async fn stop(&mut self) {
        self.stop_lives.cancel();
        while self.lives.join_next().await.is_some() {}
        self.stop_agents.cancel();
        while self.agents.join_next().await.is_some() {}
        for pc in &self.pcs {
            pc.idle().await;
        }
    }

    /// Stops everything, then lets each PC's outbox reach the controller. Gives what the outboxes say, summed up.
    pub async fn stop_and_flush(&mut self) -> super::flush::Flushed {
        self.stop().await;
        super::flush::all(&self.pcs, &self.settings).await
    }
}

impl FleetSettings {
    /// The folder of a PC.
    #[must_use]
    pub fn pc_dir(&self, index: u32) -> PathBuf {
        self.dir.join("pcs").join(format!("{index:05}"))
    }

    /// The data folder of the agent on a PC.
    #[must_use]
    pub fn agent_dir(&self, index: u32) -> PathBuf {
        self.dir.join("agents").join(format!("{index:05}"))
    }

    /// The configuration of the agent on a PC; its token lies ready on return.
    pub(super) fn agent_config(&self, index: u32) -> Result<Config, FleetError> {
        let data_dir = self.agent_dir(index);
        let token_file = data_dir.with_extension("token");
        let failed = |source| FleetError::Token { path: token_file.clone(), source };
        if let (Some(token), false) = (&self.token, data_dir.join("identity.json").exists()) {
            std::fs::create_dir_all(&data_dir).map_err(failed)?;
            std::fs::write(&token_file, token).map_err(failed)?;
        }
        Ok(Config { data_dir, enrollment_token_file: Some(token_file), ..self.agent.clone() })
    }
}

async fn live(pc: Arc<Pc>, habits: Habits, stop: CancellationToken) {
    let index = pc.profile().index;
    if let Err(error) = pc.live(habits, stop).await {
        tracing::error!(pc = index, error = &error as &dyn std::error::Error, "this PC's disk failed");
    }
}

/// Starts the agent again whenever its PC has started, until `stop`.
async fn keep_agent(pc: Arc<Pc>, config: Config, clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        let started = tokio::select! {
            () = stop.cancelled() => return,
            view = start_agent(&pc, &*clock) => view,
        };
        let Some(view) = started else { return };
        let mut down = view.reboot_signal();
        let agent = AgentParts { config: config.clone(), platform: view, clock: Arc::clone(&clock) };
        tokio::select! {
            // Dropping the agent's future is what a PC that goes down does to its process.
            () = down.wait() => {}
            ended = runner::run(agent, stop.clone()) => match ended {
                Ok(()) => return,
                Err(error) => {
                    let pc = pc.profile().index;
                    tracing::error!(pc, error = &error as &dyn std::error::Error, "the agent of this PC ended");
                    tokio::time::sleep(RESTART_AFTER_FAILURE).await;
                }
            }
        }
    }
}

async fn start_agent(pc: &Arc<Pc>, clock: &dyn Clock) -> Option<Arc<AgentView>> {
    tokio::time::sleep(clock.real(START_UP)).await;
    match pc.start_agent() {
        Ok(view) => Some(view),
        Err(error) => {
            let pc = pc.profile().index;
            tracing::error!(pc, error = &error as &dyn std::error::Error, "this PC's disk failed");
            None
        }
    }
}
