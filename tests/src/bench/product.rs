//! The product under load: `fleetmend serve` as its users start it, with raised rates, beside the limits of its parts.

use std::{
    fmt,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use fleetmend_tests::{postgres::PrivatePostgres, process::binary};
use serde::Deserialize;

use super::{
    RunArgs,
    clients::{Connected, Measured},
    machine, raw,
    report::{Ingest, Memory, Results},
    role::Role,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        })
    }
}

/// A controller process with a data folder of its own.
struct Controller {
    child: Child,
    folder: PathBuf,
    fleet: String,
    ports: Ports,
    /// A cluster of its own, when it runs on PostgreSQL.
    _postgres: Option<PrivatePostgres>,
}

#[derive(Clone, Copy)]
struct Ports {
    enrollment: u16,
    agents: u16,
    operators: u16,
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn fleetmend(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(binary("fleetmend")?).args(args).output().context("starting fleetmend")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "fleetmend {args:?} ended with {}: {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Sets addresses and posture; raises rates, never sizes or time-outs, and says which.
fn configure(file: &Path, ports: Ports, posture: &str) -> anyhow::Result<String> {
    let mut config: toml::Table = toml::from_str(&std::fs::read_to_string(file)?)?;
    let mut set = |path: &[&str], value: toml::Value| -> anyhow::Result<()> {
        let (key, tables) = path.split_last().context("no key")?;
        let mut table = &mut config;
        for name in tables {
            let entry = table.entry(*name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = entry.as_table_mut().with_context(|| format!("{name} is no table"))?;
        }
        table.insert((*key).to_owned(), value);
        Ok(())
    };
    let address = |port: u16| toml::Value::String(format!("127.0.0.1:{port}"));
    set(&["listen", "enrollment", "addr"], address(ports.enrollment))?;
    set(&["listen", "agents", "addr"], address(ports.agents))?;
    set(&["listen", "operators", "addr"], address(ports.operators))?;
    set(&["policy", "posture"], posture.into())?;
    let raised: [(&[&str], i64); 5] = [
        (&["limits", "agents", "accepts_per_second"], 100_000),
        (&["limits", "agents", "device_messages_per_minute"], 0),
        (&["limits", "enrollment", "accepts_per_second"], 100_000),
        (&["enrollment", "per_second"], 100_000),
        (&["enrollment", "per_address_per_second"], 100_000),
    ];
    for (path, rate) in raised {
        set(path, toml::Value::Integer(rate))?;
    }
    eprintln!("  raised rates: {}", raised.map(|(path, rate)| format!("{} = {rate}", path.join("."))).join(", "));
    std::fs::write(file, toml::to_string(&config)?)?;
    let fleet = config.get("fleet").and_then(toml::Value::as_str).context("the config names no fleet")?;
    Ok(fleet.to_owned())
}

/// Starts `fleetmend serve` on a data folder; its log is appended to `controller.log` there.
fn serve(folder: &Path) -> anyhow::Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("controller.log"))?;
    Command::new(binary("fleetmend")?)
        .args(["serve", "--config", &folder.join("fleetmend.toml").to_string_lossy()])
        .env("RUST_LOG", std::env::var("FLEETMEND_BENCH_LOG").unwrap_or_else(|_| "warn".to_owned()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting the controller")
}

impl Controller {
    fn start(folder: &Path, engine: Engine, posture: &str) -> anyhow::Result<Self> {
        let folder = folder.to_owned();
        let postgres = matches!(engine, Engine::Postgres).then(PrivatePostgres::start).transpose()?;
        let data_dir = folder.to_string_lossy().into_owned();
        let mut init = vec!["init", "--data-dir", &data_dir];
        let url = postgres.as_ref().map(PrivatePostgres::url);
        if let Some(url) = &url {
            init.extend(["--database-url", url]);
        }
        fleetmend(&init)?;
        let config = folder.join("fleetmend.toml");
        let ports = Ports { enrollment: free_port()?, agents: free_port()?, operators: free_port()? };
        let fleet = configure(&config, ports, posture)?;
        let child = serve(&folder)?;
        let controller = Self { child, folder, fleet, ports, _postgres: postgres };
        controller.wait_until_up()?;
        Ok(controller)
    }

    /// A new process on the same data: what enrolling left in the allocator must not hide what connections cost.
    fn restart(&mut self) -> anyhow::Result<()> {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.child.id().try_into()?),
            nix::sys::signal::Signal::SIGTERM,
        )?;
        self.child.wait()?;
        self.child = serve(&self.folder)?;
        self.wait_until_up()
    }

    fn wait_until_up(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.ports.operators)).is_err() {
            ensure!(started.elapsed() < Duration::from_secs(30), "the controller did not start: see {:?}", self.folder);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Enrolment tokens for `devices`, one a line in a file; a token serves 500.
    fn tokens(&self, devices: usize) -> anyhow::Result<PathBuf> {
        let config = self.folder.join("fleetmend.toml").to_string_lossy().into_owned();
        let mut tokens = String::new();
        for _ in 0..devices.div_ceil(500) {
            let made = fleetmend(&[
                "token",
                "new",
                "--config",
                &config,
                "--uses",
                "500",
                "--ttl",
                "2h",
                "--preapproved",
                "--output",
                "json",
            ])?;
            let made: serde_json::Value = serde_json::from_str(&made)?;
            tokens.push_str(made.get("token").and_then(serde_json::Value::as_str).context("no token was printed")?);
            tokens.push('\n');
        }
        let file = self.folder.join("enrollment.tokens");
        std::fs::write(&file, tokens)?;
        Ok(file)
    }

    /// The load generator against this controller; returns when its devices are enrolled.
    async fn clients(&self, devices: usize) -> anyhow::Result<Role> {
        let tokens = self.tokens(devices)?;
        let mut args = self.client_args(self.ports.agents, devices);
        let api_token = std::fs::read_to_string(self.folder.join("operator.token"))?;
        args.extend([
            "--enrollment".to_owned(),
            format!("https://127.0.0.1:{}", self.ports.enrollment),
            "--tokens".to_owned(),
            tokens.to_string_lossy().into_owned(),
            "--api".to_owned(),
            format!("https://127.0.0.1:{}", self.ports.operators),
            "--api-token".to_owned(),
            api_token.trim().to_owned(),
        ]);
        let mut clients = Role::start("clients", &args)?;
        let _: serde_json::Value = clients.answer().await?;
        Ok(clients)
    }

    fn client_args(&self, port: u16, devices: usize) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        let pairs = [
            ("--server-root", path("pki/server_root.pem")),
            ("--fleet", self.fleet.clone()),
            ("--agents", format!("https://127.0.0.1:{port}")),
            ("--identities", path("identities")),
            ("--devices", devices.to_string()),
        ];
        let mut args = vec!["clients".to_owned()];
        args.extend(pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        args
    }

    /// The bare server with this controller's certificates, and clients of it with the devices enrolled here.
    async fn bare(&self, devices: usize) -> anyhow::Result<(Role, Role)> {
        #[derive(Deserialize)]
        struct Listening {
            port: u16,
        }
        let folder = self.folder.to_string_lossy().into_owned();
        let mut server = Role::start("bare server", &["bare-server".into(), "--data-dir".into(), folder])?;
        let Listening { port } = server.answer().await?;
        let mut clients = Role::start("bare clients", &self.client_args(port, devices))?;
        let _: serde_json::Value = clients.answer().await?;
        Ok((server, clients))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Product, raw engine and bare server take turns.
pub async fn ingest(folder: &Path, engine: Engine, args: &RunArgs, time: Duration) -> anyhow::Result<Ingest> {
    let controller = Controller::start(&folder.join(format!("ingest-{engine}")), engine, "observe")?;
    let mut clients = controller.clients(args.devices).await?;
    let (_bare_server, mut bare_clients) = controller.bare(args.devices).await?;
    let raw_cluster = matches!(engine, Engine::Postgres).then(PrivatePostgres::start).transpose()?;
    let connect = format!("connect {}", args.devices);
    let _: Connected = clients.ask(&connect).await?;
    let _: Connected = bare_clients.ask(&connect).await?;
    let _: Measured = clients.ask("report 1").await?; // opens the incidents and warms both up
    let _: Measured = bare_clients.ask("report 1").await?;
    let report = format!("report {}", time.as_secs());
    let (mut product, mut raws, mut bares, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        let before = machine::cpu_us(controller.child.id())?;
        let measured: Measured = clients.ask(&report).await?;
        let used = machine::cpu_us(controller.child.id())? - before;
        #[allow(clippy::cast_precision_loss)] // a quotient
        cpu.push(used as f64 / measured.count.max(1) as f64);
        raws.push(match &raw_cluster {
            Some(cluster) => raw::postgres(&cluster.url(), time / 2).await?,
            None => raw::sqlite(&controller.folder.join("raw.db"), time / 2).await?,
        });
        let bare: Measured = bare_clients.ask(&report).await?;
        eprintln!("  round {round}: {:.0} reports/s, bare {:.0}/s", measured.per_second, bare.per_second);
        bares.push(bare.per_second);
        product.push(measured);
    }
    let of = |field: fn(&Measured) -> f64| median(product.iter().map(field).collect());
    Ok(Ingest {
        reports_per_s: of(|it| it.per_second),
        raw_rows_per_s: median(raws),
        bare_per_s: median(bares),
        ack_p50_ms: of(|it| it.p50_ms),
        ack_p99_ms: of(|it| it.p99_ms),
        ack_mean_ms: of(|it| it.mean_ms),
        cpu_us_per_report: median(cpu),
    })
}

/// Resident memory an idle device costs, at a tenth and at all of them; then commands to single ones among all.
pub async fn idle(folder: &Path, args: &RunArgs, results: &mut Results) -> anyhow::Result<()> {
    let mut controller = Controller::start(&folder.join("idle"), Engine::Sqlite, "recommended")?;
    drop(controller.clients(args.idle_devices).await?);
    controller.restart()?;
    let mut clients = controller.clients(args.idle_devices).await?;
    let (bare_server, mut bare_clients) = controller.bare(args.idle_devices).await?;
    // One connection each, so that what is made once is there before the counting starts.
    let _: Connected = clients.ask("connect 1").await?;
    let _: Connected = bare_clients.ask("connect 1").await?;
    let (product_pid, bare_pid) = (controller.child.id(), bare_server.pid()?);
    let (product_before, bare_before) = (machine::resident_bytes(product_pid)?, machine::resident_bytes(bare_pid)?);
    for devices in [args.idle_devices / 10, args.idle_devices] {
        let connect = format!("connect {devices}");
        let connected: Connected = clients.ask(&connect).await?;
        let _: Connected = bare_clients.ask(&connect).await?;
        eprintln!("  {} devices connected in {:.1} s", connected.connected, connected.seconds);
        tokio::time::sleep(Duration::from_secs(3)).await; // what the handshakes needed goes back to the allocator
        let each = |now: u64, before: u64| -> f64 {
            #[allow(clippy::cast_precision_loss)] // a quotient
            let quotient = now.saturating_sub(before) as f64 / (devices.max(2) - 1) as f64;
            quotient
        };
        results.memory.push(Memory {
            devices,
            bytes_per_device: each(machine::resident_bytes(product_pid)?, product_before),
            bare_bytes_per_stream: each(machine::resident_bytes(bare_pid)?, bare_before),
        });
    }
    drop(bare_clients);
    results.command = Some(clients.ask(&format!("command {}", args.commands)).await?);
    results.report_to_order = Some(clients.ask(&format!("order {}", args.commands)).await?);
    Ok(())
}
