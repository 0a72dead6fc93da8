//! What the product costs beside the limits of its parts, measured in one run, alternating: only the ratios count.
//!
//! Controller, bare server and clients are separate processes of one machine; the load generator shares its cores.

mod bare;
mod clients;
mod machine;
mod product;
mod raw;
mod report;
mod role;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "fleetmend-bench", about = "Measures Fleetmend beside the bare limits of its parts, in one run")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All measurements; a table, or an object with `--output json`.
    Run(RunArgs),
    /// The bare tonic server (started by `run`).
    #[command(hide = true)]
    BareServer(bare::ServerArgs),
    /// The load generator (started by `run`, obeys lines on standard input).
    #[command(hide = true)]
    Clients(clients::ClientArgs),
}

#[derive(clap::Args, Clone)]
struct RunArgs {
    /// Devices with one outstanding report each.
    #[arg(long, default_value_t = 1_000)]
    devices: usize,
    /// Most idle devices; the memory is measured at a tenth of it, too.
    #[arg(long, default_value_t = 10_000)]
    idle_devices: usize,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How often product and limits take turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Commands measured end to end.
    #[arg(long, default_value_t = 200)]
    commands: usize,
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    output: String,
    /// Keep data and logs here instead of a temporary folder.
    #[arg(long)]
    keep: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    rustls::crypto::ring::default_provider().install_default().ok().context("installing the TLS provider")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match args.command {
        Command::Run(args) => runtime.block_on(async {
            tokio::select! {
                done = run(args) => done,
                // What was started ends with the values that hold it.
                _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted: nothing was measured to its end")),
            }
        }),
        Command::BareServer(args) => runtime.block_on(bare::serve(args)),
        Command::Clients(args) => runtime.block_on(clients::obey(args)),
    }
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = args.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    machine::raise_open_files()?;
    let seconds = Duration::from_secs(args.seconds);
    let mut results = report::Results::new();
    for engine in [product::Engine::Sqlite, product::Engine::Postgres] {
        eprintln!("ingest on {engine}");
        let measured = product::ingest(&folder, engine, &args, seconds).await?;
        results.ingest(engine, measured);
    }
    eprintln!("idle memory and commands");
    product::idle(&folder, &args, &mut results).await?;
    if args.output == "json" {
        println!("{}", serde_json::to_string_pretty(&results.json())?);
    } else {
        print!("{}", results.table());
    }
    Ok(())
}
