//! The whole agent against the fake controller, over real mutual TLS. Reads collected logs, as any system can.

mod fake_controller;
mod orders;
mod reports;
mod trust;

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use fleetmend_proto::SystemClock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{AgentParts, RunError, run};
use crate::{
    config::{Config, LinkSettings},
    guard::LocalPolicy,
    link::{BackoffSettings, ChannelSettings},
    platform::collected::CollectedPc,
};
use fake_controller::{Call, FakeController, TOKEN};

/// A PC's folder: logs, data, token.
struct Pc {
    folder: tempfile::TempDir,
}

impl Pc {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("logs")).expect("a folder");
        fs::write(folder.path().join("token"), format!("{TOKEN}\n")).expect("write");
        Self { folder }
    }

    fn token(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// Windows records failed installs of these KBs, a minute apart.
    fn record(&self, kbs: std::ops::Range<u32>) {
        append_failures(&self.logs().join("ReportingEvents.log"), kbs);
    }

    fn config(&self, controller: &FakeController) -> Config {
        fs::create_dir_all(self.data()).expect("a folder");
        let url = format!("https://{}", controller.address).parse().expect("an address");
        Config {
            enrollment: std::clone::Clone::clone(&url),
            agent: url,
            server_root: controller.server_root.clone(),
            fleet: controller.fleet,
            order_keys: vec![controller.order_key.verifier()],
            data_dir: self.data(),
            enrollment_token_file: Some(self.token()),
            package_folder: None,
            policy: LocalPolicy::default(),
            detect_interval: Duration::from_millis(50),
            condition_interval: Duration::from_secs(3600),
            link: LinkSettings {
                channel: ChannelSettings::default(),
                backoff: BackoffSettings {
                    base: Duration::from_millis(5),
                    cap: Duration::from_millis(50),
                    ..BackoffSettings::default()
                },
                ..LinkSettings::default()
            },
        }
    }

    fn start(&self, controller: &FakeController) -> RunningAgent {
        self.start_with(self.config(controller))
    }

    fn start_with(&self, config: Config) -> RunningAgent {
        let platform = Arc::new(CollectedPc::open(Some(&self.logs())).expect("a folder"));
        let shutdown = CancellationToken::new();
        let parts = AgentParts { config, platform, clock: Arc::new(SystemClock) };
        RunningAgent { task: tokio::spawn(run(parts, shutdown.clone())), shutdown }
    }
}

/// See [`Pc::record`]. Each KB has a time of its own, so that nothing merges.
fn append_failures(file: &std::path::Path, kbs: std::ops::Range<u32>) {
    let mut text = String::new();
    for kb in kbs {
        let (hour, minute) = ((kb / 60) % 24, kb % 60);
        let day = 1 + (kb / 1440) % 28;
        writeln!(
            text,
            "{{2A6C1B0E-7F11-4E52-9D8C-{kb:012}}}\t2026-01-{day:02} {hour:02}:{minute:02}:44:123+0100\t1\t182 \
             [AGENT_INSTALLING_FAILED]\t101\t{{7B0F6A52-1D7E-4A43-9A3B-{kb:012}}}\t200\t80073712\tMoUpdateOrchestrator\t\
             Failure\tContent Install\tInstallation Failure: Windows failed to install the following update with error \
             0x80073712: 2026-01 Cumulative Update (KB{kb}).\taBcD1234efGh5678.1.0"
        )
        .expect("text grows");
    }
    let mut file = OpenOptions::new().create(true).append(true).open(file).expect("a log");
    file.write_all(text.as_bytes()).expect("write");
}

struct RunningAgent {
    task: JoinHandle<Result<(), RunError>>,
    shutdown: CancellationToken,
}

impl RunningAgent {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("stopped in order");
    }

    /// As a power loss would.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|it| it.is_cancelled()), "it had ended by itself");
    }

    async fn error(self) -> RunError {
        self.task.await.expect("no panic").expect_err("it ended without an error")
    }
}

fn hellos(calls: &[Call]) -> usize {
    calls.iter().filter(|it| matches!(it, Call::Hello { .. })).count()
}
