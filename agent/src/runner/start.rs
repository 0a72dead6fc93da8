//! What comes before the loops: the data folder, the identity, and how long the first connection waits.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use fleetmend_proto::{FleetId, clock::wall_now};

use crate::{
    config::Config,
    enroll::{self, EnrollError, Enrollment},
    execute::ExecuteError,
    identity::{Identity, IdentityError, PendingKey},
    link::{Backoff, Patience, backoff::unit, failure::chain, session::LinkStopped},
    platform::{Platform, PlatformError},
    state::{AgentDb, StateError},
};

const DATABASE: &str = "agent.db";

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("data folder {path} cannot be used: check that it may be written")]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("data folder {0} is in use by another fleetmend-agent: stop that one first")]
    InUse(PathBuf),
    #[error("the agent's state cannot be used")]
    State(#[source] StateError),
    #[error("the device's identity cannot be used")]
    Identity(#[source] IdentityError),
    #[error(
        "this device is of fleet {identity}, the config says {config}: remove identity.json from the data folder to enrol \
         into another fleet"
    )]
    OtherFleet { identity: FleetId, config: FleetId },
    #[error("not enrolled yet, and no token: put one into the file that enrollment_token_file names ({why})")]
    NoToken { why: String },
    #[error("enrolment failed")]
    Enroll(#[source] EnrollError),
    #[error("this PC cannot say what it is")]
    Machine(#[source] PlatformError),
    #[error("orders cannot be run")]
    Execute(#[source] ExecuteError),
    #[error("no connection to the controller is possible")]
    Link(#[source] LinkStopped),
}

/// The data folder, held by this process alone.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked for as long as it lives.
    _lock: fs::File,
}

impl DataDir {
    /// Makes the folder if needed and locks it.
    ///
    /// # Errors
    /// When it cannot be written or another agent holds it.
    pub fn lock(path: &Path) -> Result<Self, RunError> {
        let failed = |source| RunError::DataDir { path: path.to_owned(), source };
        make_folder(path)?;
        let lock =
            fs::OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(RunError::InUse(path.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The agent's state file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }
}

fn make_folder(path: &Path) -> Result<(), RunError> {
    #[cfg(windows)]
    let made = crate::platform::windows::folder::prepare(path);
    #[cfg(not(windows))]
    let made = {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)
    };
    made.map_err(|source| RunError::DataDir { path: path.to_owned(), source })
}

/// The stored identity, or a new one by the token; waits for a controller that is away.
///
/// # Errors
/// When there is neither an identity nor a token that the controller takes.
pub async fn become_device(config: &Config, platform: &dyn Platform) -> Result<Identity, RunError> {
    let mut backoff = Backoff::new(config.link.backoff);
    loop {
        match enroll_once(config, platform).await {
            Err(RunError::Enroll(error)) if error.is_transient() => {
                let patience = match &error {
                    EnrollError::Link(error) => error.patience(),
                    EnrollError::TokenRefused { .. } | EnrollError::Identity(_) | EnrollError::OtherFleet { .. } => {
                        Patience::Usual
                    }
                };
                let wait = backoff.wait(patience, unit());
                tracing::warn!(error = %chain(&error), ?wait, "not enrolled yet, trying again");
                tokio::time::sleep(wait).await;
            }
            done => return done,
        }
    }
}

/// The stored identity, or one attempt to enrol.
///
/// # Errors
/// What stands in the way, and what to do.
pub async fn enroll_once(config: &Config, platform: &dyn Platform) -> Result<Identity, RunError> {
    if let Some(identity) = Identity::load(&config.data_dir).map_err(RunError::Identity)? {
        if identity.fleet() != config.fleet {
            return Err(RunError::OtherFleet { identity: identity.fleet(), config: config.fleet });
        }
        // A token that was used is of no use to anybody but a thief.
        remove_token(config);
        return Ok(identity);
    }
    let token = read_token(config)?;
    let machine = platform.machine().await.map_err(RunError::Machine)?;
    let enrollment = Enrollment {
        endpoint: &config.enrollment,
        server_root: &config.server_root,
        settings: &config.link.channel,
        fleet: config.fleet,
        machine: &machine,
    };
    let key = PendingKey::kept(&config.data_dir, None).map_err(RunError::Identity)?;
    let enrolled = enroll::enroll(enrollment, key, &token).await.map_err(RunError::Enroll)?;
    // First, so that an identity without a state file always means that the file was lost.
    make_folder(&config.data_dir)?;
    let database = config.data_dir.join(DATABASE);
    if !database.exists() {
        AgentDb::open(&database, wall_now()).await.map_err(RunError::State)?.close().await;
    }
    enrolled.identity.save(&config.data_dir).map_err(RunError::Identity)?;
    remove_token(config);
    let device = enrolled.identity.device();
    tracing::info!(device_id = %device, quarantined = enrolled.quarantined, "enrolled");
    Ok(enrolled.identity)
}

fn read_token(config: &Config) -> Result<String, RunError> {
    let Some(path) = &config.enrollment_token_file else {
        return Err(RunError::NoToken { why: "the config has no such key".to_owned() });
    };
    let token =
        fs::read_to_string(path).map_err(|error| RunError::NoToken { why: format!("{}: {error}", path.display()) })?;
    if token.trim().is_empty() {
        return Err(RunError::NoToken { why: format!("{} is empty", path.display()) });
    }
    Ok(token)
}

fn remove_token(config: &Config) {
    let Some(path) = &config.enrollment_token_file else { return };
    match fs::remove_file(path) {
        Ok(()) => tracing::info!(file = %path.display(), "enrolment token removed"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, file = %path.display(), "enrolment token cannot be removed: remove it by hand")
        }
    }
}

/// How long the first connection waits: a fleet that was switched on together must not arrive together. Zero when only
/// the agent was started anew.
pub(super) async fn first_wait(config: &Config, platform: &dyn Platform) -> Duration {
    let Ok(boot) = platform.boot_id().await else { return Duration::ZERO };
    let file = config.data_dir.join("last-boot");
    if fs::read_to_string(&file).is_ok_and(|known| known == boot) {
        return Duration::ZERO;
    }
    if let Err(error) = fs::write(&file, &boot) {
        tracing::warn!(%error, file = %file.display(), "the start of the system cannot be noted");
    }
    config.link.first_connect_within.mul_f64(unit())
}
