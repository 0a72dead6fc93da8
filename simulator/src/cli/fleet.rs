//! `fleetmend-sim fleet`: light devices against a running controller. They enrol, stay connected, report a failure now and
//! then, and end every order at once.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use fleetmend_agent::config::Config;
use fleetmend_proto::{
    Kb, Operation, Outcome, OutcomeResult, Source, UpdateKind, UpdateRef, clock::wall_now, order::OrderPhase,
};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::failed;
use crate::{
    fleet::light::{LightDevice, LightSettings},
    pc::{causes, dice::Dice},
};

/// Enrolments under way at once.
const ENROLLING: usize = 64;
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct FleetArgs {
    /// The agents' configuration, as `fleetmend init` wrote it: where the controller is and how to know it.
    #[arg(long, value_name = "FILE")]
    agent_config: PathBuf,
    /// File with an enrolment token that is good for all devices.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// How many devices, at most 10000.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    devices: u32,
    /// Fixes which failures devices report.
    #[arg(long, value_name = "NUMBER", default_value_t = 42)]
    seed: u64,
    /// Each device reports a failure this often.
    #[arg(long, value_name = "TIME", value_parser = super::demo::duration, default_value = "60s")]
    report_every: Duration,
}

pub async fn run(args: FleetArgs, stop: CancellationToken) -> ExitCode {
    match load(args, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn load(args: FleetArgs, stop: CancellationToken) -> anyhow::Result<()> {
    raise_open_files()?;
    let config = Config::load(&args.agent_config).context("the agents' configuration")?;
    let token = std::fs::read_to_string(&args.token_file)
        .with_context(|| format!("reading the token in {}", args.token_file.display()))?;
    let settings = Arc::new(LightSettings {
        enrollment: config.enrollment,
        agents: config.agent,
        server_root: config.server_root,
        fleet: config.fleet,
        order_keys: config.order_keys,
        channel: config.link.channel,
        seed: args.seed,
    });
    let enrolling = futures::stream::iter(0..args.devices)
        .map(|index| enroll(Arc::clone(&settings), index, &token))
        .buffer_unordered(ENROLLING)
        .take_until(stop.cancelled());
    let mut devices = tokio::task::JoinSet::new();
    let mut enrolling = std::pin::pin!(enrolling);
    while let Some((index, device)) = enrolling.next().await {
        devices.spawn(work(device?, index, args.seed, args.report_every, stop.clone()));
        if devices.len().is_multiple_of(100) {
            eprintln!("{} of {} devices enrolled", devices.len(), args.devices);
        }
    }
    eprintln!("{} devices at work; Ctrl-C ends it", devices.len());
    let (mut reports, mut orders) = (0, 0);
    while let Some(done) = devices.join_next().await {
        let (reported, obeyed) = done?;
        reports += reported;
        orders += obeyed;
    }
    println!("{reports} reports acknowledged, {orders} orders answered");
    Ok(())
}

/// A device is a socket: as many files as the system allows.
fn raise_open_files() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")
}

/// Enrols, waiting where the controller has had enough for a moment.
async fn enroll(settings: Arc<LightSettings>, index: u32, token: &str) -> (u32, anyhow::Result<LightDevice>) {
    let mut wait = Duration::from_millis(250);
    loop {
        match LightDevice::enroll(Arc::clone(&settings), index, token).await {
            Err(crate::fleet::light::LightError::Enroll(error)) if error.is_transient() && wait < LONGEST_WAIT => {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            done => return (index, done.map_err(anyhow::Error::from)),
        }
    }
}

/// Connects again whenever the connection ends. Gives reports acknowledged and orders answered.
async fn work(
    mut device: LightDevice,
    index: u32,
    seed: u64,
    report_every: Duration,
    stop: CancellationToken,
) -> (u64, u64) {
    let dice = Dice::of_device(seed, index);
    let (mut reports, mut orders) = (0, 0);
    let mut failures = 0;
    while !stop.is_cancelled() {
        let turn = CancellationToken::new();
        let pause = report_every.mul_f64(0.5 + dice.fraction(&format!("pause {failures}")));
        let timer = {
            let (turn, stop) = (turn.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                turn.cancel();
            })
        };
        match device.obey(|_| OrderPhase::Succeeded, &turn).await {
            Ok(obeyed) => orders += obeyed,
            Err(error) => {
                tracing::warn!(device = index, error = &error as &dyn std::error::Error, "connecting again");
                turn.cancelled().await;
            }
        }
        timer.abort();
        if stop.is_cancelled() {
            break;
        }
        match device.report(&failure(&dice, failures)).await {
            Ok(_) => reports += 1,
            Err(error) => tracing::warn!(device = index, error = &error as &dyn std::error::Error, "not reported"),
        }
        failures += 1;
    }
    (reports, orders)
}

fn failure(dice: &Dice, number: u32) -> Outcome {
    let (_, code) = causes::draw(dice, number);
    let kb = Kb(5_990_000 + number % 1_000);
    Outcome {
        update: UpdateRef {
            update_id: Some(Dice::of_fleet(0).uuid(&kb.to_string())),
            revision: 1,
            kb: Some(kb),
            title: format!("2026-01 Cumulative Update ({kb})"),
            kind: UpdateKind::Quality,
            supersedes: Vec::new(),
        },
        operation: Operation::Install,
        result: OutcomeResult::Failed,
        code,
        raw_code: code,
        occurred_at: wall_now(),
        source: Source::EventLog,
    }
}
