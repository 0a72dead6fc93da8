//! The demo: the real controller in this process and simulated PCs that run the real agent over mutual TLS on loopback, in
//! faster domain time. Called by `cli::demo`; tests call it too.

mod controller;
mod progress;
mod summary;

use std::{path::PathBuf, sync::Arc, time::Duration};

use fleetmend_controller::store::Store;
use tokio_util::sync::CancellationToken;

pub use summary::Summary;

use self::controller::DemoController;
use crate::{
    ScaledClock,
    fleet::{Fleet, FleetSettings, flush},
    pc::Habits,
};

/// Domain seconds a real second by default. A climb from tier 1 to tier 5 takes about 80 hours of domain time (60 of
/// cool-downs and backoff, the rest work and verification): 36 s at this speed, messages and ticks of loops included.
pub const DEFAULT_SPEED: f64 = 8_000.0;

/// What to show.
#[derive(Clone, Debug)]
pub struct DemoSettings {
    pub devices: u32,
    pub seed: u64,
    pub speed: f64,
    /// `None`: until `stop`.
    pub length: Option<Duration>,
    /// How long open incidents may go on after the last new failure.
    pub drain: Duration,
    /// Where everything lies and stays; `None`: a temporary folder.
    pub keep: Option<PathBuf>,
    /// `None`: SQLite, `controller.db` in the folder.
    pub database_url: Option<String>,
    pub fsync: bool,
    /// Print URL and token where people look for them.
    pub announce: fn(&str),
}

/// Runs the demo to its end or until `stop`, drains it, and gives the summary of what the database then holds.
///
/// # Errors
/// What stood in the way, in words for people.
pub async fn run(settings: DemoSettings, stop: CancellationToken) -> anyhow::Result<Summary> {
    let temporary = settings.keep.is_none().then(tempfile::tempdir).transpose()?;
    let dir = match (&settings.keep, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(dir)) => dir.path().to_owned(),
        (None, None) => anyhow::bail!("no folder to work in"),
    };
    let clock = Arc::new(ScaledClock::starting_now(settings.speed)?);
    let controller = tokio::select! {
        started = DemoController::start(&dir, &settings, clock.clone()) => started?,
        () = stop.cancelled() => anyhow::bail!("stopped before the controller was up"),
    };
    (settings.announce)(&controller.announcement());
    let outcome = with_fleet(&settings, &dir, &clock, &controller, &stop).await;
    let url = controller.database_url();
    let duplicates = controller.duplicates();
    controller.stop().await;
    let (flushed, noted) = outcome?;
    // Read when nothing writes any more: the summary is what the database says.
    let store = Store::connect(&url).await?;
    let stored = store.summary().await?;
    store.close().await;
    Ok(Summary::new(&settings, &stored, flushed, noted, duplicates))
}

/// Gives what the outboxes say and how many outcomes Windows' records on the PCs hold.
async fn with_fleet(
    settings: &DemoSettings,
    dir: &std::path::Path,
    clock: &Arc<ScaledClock>,
    controller: &DemoController,
    stop: &CancellationToken,
) -> anyhow::Result<(flush::Flushed, u64)> {
    let fleet_settings = FleetSettings {
        dir: dir.to_owned(),
        first: 0,
        count: settings.devices,
        seed: settings.seed,
        clock: clock.clone(),
        agent: controller.agent_config(settings.speed)?,
        token: Some(controller.enrollment_token().to_owned()),
        habits: Habits::default(),
        fsync: settings.fsync,
    };
    let mut fleet = Fleet::start(fleet_settings.clone())?;
    let mut progress = progress::Progress::new(controller.store().clone(), settings.devices);
    let over = async {
        match settings.length {
            Some(length) => tokio::time::sleep(length).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = over => {}
        () = stop.cancelled() => {}
        never = progress.run("running") => match never {},
    }
    fleet.no_more_failures();
    tokio::select! {
        () = tokio::time::sleep(settings.drain) => {}
        () = progress.settled() => {}
    }
    progress.finish();
    let flushed = fleet.stop_and_flush().await;
    let mut noted = 0;
    for index in 0..settings.devices {
        let dir = fleet_settings.pc_dir(index);
        noted += tokio::task::spawn_blocking(move || flush::outcomes_on_disk(&dir)).await??;
    }
    Ok((flushed, noted))
}
