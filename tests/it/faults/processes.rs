//! A fleet of real processes: one controller, and processes of simulated PCs whose folders outlive them.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_controller::{
    config::DatabaseUrl,
    pki::{self, InitOptions},
    secret::{self, Kind},
    store::{NewToken, Store},
};
use fleetmend_proto::{Clock as _, clock::wall_now};
use fleetmend_simulator::{ScaledClock, pc::write_packages};
use fleetmend_tests::process::{Process, binary};
use tempfile::TempDir;

use super::invariants::PcFolders;

/// How big and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Processes of PCs.
    pub processes: u32,
    pub pcs_each: u32,
    /// Domain seconds a real second.
    pub speed: f64,
    pub seed: u64,
}

/// Everything of one fault test. Processes die with it.
pub struct Fleet {
    dir: TempDir,
    size: Size,
    clock: ScaledClock,
    url: String,
    config: PathBuf,
    agent_config: PathBuf,
    token: PathBuf,
    program: PathBuf,
    store: Store,
    controller: Option<Process>,
    pcs: Vec<Process>,
}

impl Fleet {
    /// Makes keys, configuration and database; starts the controller and all PCs; returns when all have enrolled.
    pub async fn start(size: Size, database: Option<String>) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let url = database.unwrap_or_else(|| format!("sqlite://{}", dir.path().join("controller.db").display()));
        let clock = ScaledClock::starting_now(size.speed)?;
        let options = InitOptions {
            enrollment: Some(free_address()?),
            agents: Some(free_address()?),
            operators: Some(free_address()?),
            database: Some(DatabaseUrl::new(url.clone())),
            ..InitOptions::new(dir.path().join("controller"), wall_now())
        };
        let made = pki::init(&options)?;
        write_packages(&made.config.packages)?;
        raise_rates(&made.config_file)?;
        complete_agent_config(&made.agent_config, &made.config.packages)?;
        // As installed: the root lies beside the agent's configuration.
        std::fs::copy(&made.server_root, made.agent_config.with_file_name("server_root.pem"))?;
        let store = Store::connect(&url).await?;
        store.migrate().await?;
        store.fleet_ensure(made.config.fleet).await?;
        let token = dir.path().join("enrollment.token");
        std::fs::write(&token, new_token(&store, &clock).await?)?;
        let mut fleet = Self {
            size,
            clock,
            url,
            config: made.config_file,
            agent_config: made.agent_config,
            token,
            program: binary("fleetmend-sim")?,
            store,
            controller: None,
            pcs: Vec::new(),
            dir,
        };
        fleet.start_controller()?;
        for process in 0..size.processes {
            let started = fleet.pcs_process(process, false)?;
            fleet.pcs.push(started);
        }
        let all = i64::from(size.processes * size.pcs_each);
        let what = format!("{all} devices enrol");
        fleet
            .wait_for(&what, Duration::from_secs(90), async |it| it.enrolled().await.map(|count| count >= all))
            .await?;
        Ok(fleet)
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn clock(&self) -> &ScaledClock {
        &self.clock
    }

    /// Real time as domain time.
    pub fn domain(&self, real: Duration) -> TimeDelta {
        TimeDelta::from_std(real.mul_f64(self.size.speed)).unwrap_or(TimeDelta::MAX)
    }

    pub fn agent_config(&self) -> &Path {
        &self.agent_config
    }

    /// An enrolment token that is good for all devices.
    pub fn token(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(&self.token)?)
    }

    pub fn processes(&self) -> u32 {
        self.size.processes
    }

    async fn enrolled(&self) -> anyhow::Result<i64> {
        Ok(self.store.summary().await?.devices.values().sum())
    }

    /// Polls until `done`, failing after `limit` with the ends of all logs.
    pub async fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        done: impl AsyncFn(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<Duration> {
        let started = Instant::now();
        while !done(self).await? {
            self.check_alive()?;
            ensure!(started.elapsed() < limit, "waited {limit:?} for: {what}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(started.elapsed())
    }

    /// Fails when a process ended that nobody killed.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        self.controller.iter_mut().chain(&mut self.pcs).try_for_each(Process::check_alive)
    }

    fn start_controller(&mut self) -> anyhow::Result<()> {
        let mut args = vec!["controller".to_owned(), "--config".to_owned(), text(&self.config)];
        args.extend(self.clock_args());
        let log = self.dir.path().join("controller.log");
        self.controller = Some(Process::start("controller", &self.program, &args, &log)?);
        Ok(())
    }

    /// kill -9 and a start at once.
    pub fn kill_controller(&mut self) -> anyhow::Result<()> {
        self.controller.as_mut().context("no controller runs")?.kill()?;
        self.start_controller()
    }

    /// kill -9 of all agents and PCs of one process, and a start at once.
    pub fn kill_pcs(&mut self, process: u32) -> anyhow::Result<()> {
        let index = usize::try_from(process)?;
        self.pcs.get_mut(index).context("no such process")?.kill()?;
        let started = self.pcs_process(process, false)?;
        self.pcs[index] = started;
        Ok(())
    }

    /// From here on no new update arrives at any PC.
    pub fn no_more_failures(&mut self) -> anyhow::Result<()> {
        self.stop_pcs()?;
        for process in 0..self.size.processes {
            let started = self.pcs_process(process, true)?;
            self.pcs.push(started);
        }
        Ok(())
    }

    /// Switches all PCs off in good order.
    pub fn stop_pcs(&mut self) -> anyhow::Result<()> {
        for mut process in std::mem::take(&mut self.pcs) {
            // One that has just been started would die of the signal rather than obey it.
            process.wait_until_said("PCs are up", Duration::from_secs(30))?;
            let code = process.terminate(Duration::from_secs(60))?;
            ensure!(code == Some(0), "a process of PCs ended with {code:?}: {}", process.tail());
        }
        Ok(())
    }

    /// Lets each stopped PC's outbox reach the controller. Fails when something in one was not acknowledged.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        ensure!(self.pcs.is_empty(), "the PCs must be off");
        for process in 0..self.size.processes {
            let mut args = self.pcs_args(process, true);
            args.push("--flush".to_owned());
            let log = self.dir.path().join(format!("flush-{process}.log"));
            let mut flush = Process::start("flush", &self.program, &args, &log)?;
            let code = flush.wait(Duration::from_secs(60))?;
            ensure!(code == Some(0), "outboxes were not emptied ({code:?}): {}\n{}", flush.tail(), self.logs());
        }
        Ok(())
    }

    /// SIGTERM; the exit code must be 0.
    pub fn stop_controller(&mut self) -> anyhow::Result<()> {
        let mut controller = self.controller.take().context("no controller runs")?;
        let code = controller.terminate(Duration::from_secs(60))?;
        ensure!(code == Some(0), "the controller ended with {code:?}: {}", controller.tail());
        Ok(())
    }

    pub fn folders(&self) -> Vec<PcFolders> {
        let of = |index: u32| PcFolders {
            pc: self.dir.path().join("fleet/pcs").join(format!("{index:05}")),
            agent: self.dir.path().join("fleet/agents").join(format!("{index:05}")),
        };
        (0..self.size.processes * self.size.pcs_each).map(of).collect()
    }

    fn pcs_process(&self, process: u32, quiet: bool) -> anyhow::Result<Process> {
        let log = self.dir.path().join(format!("pcs-{process}.log"));
        Process::start(&format!("PCs {process}"), &self.program, &self.pcs_args(process, quiet), &log)
    }

    fn pcs_args(&self, process: u32, quiet: bool) -> Vec<String> {
        let Size { pcs_each, seed, .. } = self.size;
        let pairs = [
            ("--dir", text(&self.dir.path().join("fleet"))),
            ("--from", (process * pcs_each).to_string()),
            ("--count", pcs_each.to_string()),
            ("--agent-config", text(&self.agent_config)),
            ("--token-file", text(&self.token)),
            ("--seed", seed.to_string()),
        ];
        let mut args = vec!["pcs".to_owned()];
        args.extend(pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        args.extend(self.clock_args());
        args.extend(quiet.then(|| "--no-new-failures".to_owned()));
        args
    }

    fn clock_args(&self) -> [String; 4] {
        let origin: DateTime<Utc> = self.clock.origin();
        ["--clock-origin".to_owned(), origin.to_rfc3339(), "--speed".to_owned(), self.size.speed.to_string()]
    }

    /// The ends of what all processes printed.
    pub fn logs(&self) -> String {
        let all = self.controller.iter().chain(&self.pcs);
        all.map(Process::tail).filter(|tail| !tail.is_empty()).collect::<Vec<_>>().join("\n--\n")
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A port that was free a moment ago; fixed, because restarts must come back to it.
fn free_address() -> anyhow::Result<std::net::SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Raises rates, never sizes or time-outs: a hundred PCs share an address and live days in seconds.
fn raise_rates(file: &Path) -> anyhow::Result<()> {
    let mut config: toml::Table = toml::from_str(&std::fs::read_to_string(file)?)?;
    let rates: [(&[&str], toml::Value); 7] = [
        (&["policy", "posture"], "recommended".into()),
        (&["limits", "agents", "accepts_per_second"], 10_000.into()),
        (&["limits", "agents", "device_messages_per_minute"], 0.into()),
        (&["limits", "agents", "device_burst"], 10_000.into()),
        (&["limits", "enrollment", "accepts_per_second"], 10_000.into()),
        (&["enrollment", "per_second"], 10_000.into()),
        (&["enrollment", "per_address_per_second"], 10_000.into()),
    ];
    for (path, value) in rates {
        let (key, tables) = path.split_last().context("no key")?;
        let mut table = &mut config;
        for name in tables {
            let entry = table.entry(*name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = entry.as_table_mut().with_context(|| format!("{name} is no table"))?;
        }
        table.insert((*key).to_owned(), value);
    }
    std::fs::write(file, toml::to_string(&config)?)?;
    Ok(())
}

/// Short waits between connections, so that a minute of kills holds many of them.
fn complete_agent_config(file: &Path, packages: &Path) -> anyhow::Result<()> {
    let mut config = std::fs::read_to_string(file)?;
    config.push_str(&format!(
        "package_folder = '{}'\n[link]\nbackoff_base = \"200ms\"\nbackoff_cap = \"2s\"\nfirst_connect_within = \"500ms\"\n",
        packages.display()
    ));
    std::fs::write(file, config)?;
    Ok(())
}

async fn new_token(store: &Store, clock: &ScaledClock) -> anyhow::Result<String> {
    let token = secret::new(Kind::Enrollment);
    let now = clock.now();
    let row = NewToken {
        hash: secret::hash(&token),
        uses: 10_000,
        expires_at: now + TimeDelta::days(3_650),
        ring: "default".to_owned(),
        preapproved: true,
        created_by: "tests".to_owned(),
        note: "faults".to_owned(),
        now,
    };
    store.token_insert(row).await?;
    Ok(token)
}
