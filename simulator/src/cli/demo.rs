//! `fleetmend-sim demo`: checks what was asked for, runs the demo, prints its summary.

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{failed, usage};
use crate::{
    ScaledClock,
    demo::{self, DEFAULT_SPEED, DemoSettings},
    fleet::MAX_FULL,
};

const EXAMPLES: &str = "Examples:
  fleetmend-sim demo                                 until Ctrl-C, then a summary as a table
  fleetmend-sim demo --for 60s --output json         a minute; standard output holds only the object
  fleetmend-sim demo --devices 50 --seed 7 --keep /tmp/fleet
  fleetmend-sim demo --database-url postgres://fleetmend@localhost/demo

What is simulated and what is not: the PCs are models (services, caches, component store, restarts, hidden causes,
Windows' own record files); agent, protocol, mutual TLS, controller and database are the real ones.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// Simulated PCs, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 200)]
    devices: u32,
    /// Fixes devices, hidden causes and what each step comes to.
    #[arg(long, value_name = "NUMBER", default_value_t = 42, allow_hyphen_values = true)]
    seed: u64,
    /// Domain seconds a real second, 0.001 to 1000000; at the default a climb from tier 1 to 5 ends within a minute.
    #[arg(long, value_name = "FACTOR", default_value_t = DEFAULT_SPEED, allow_hyphen_values = true)]
    speed: f64,
    /// How long new failures arrive, like 60s or 2m; without it until Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    length: Option<Duration>,
    /// How long open incidents may go on after that.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "15s")]
    drain: Duration,
    /// Keep everything in this folder, which must not hold a fleet yet: controller.db, the PCs, their agents.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Where the controller keeps its data: sqlite://FILE or postgres://USER@HOST/DATABASE (empty).
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// How to print the summary; with json standard output holds nothing else.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Sync the simulated PCs' own logs to disk; needed only where this process may be killed.
    #[arg(long)]
    fsync: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub async fn run(args: DemoArgs, stop: CancellationToken) -> ExitCode {
    let output = args.output;
    let settings = match settings(args) {
        Ok(settings) => settings,
        Err(message) => return usage(&message),
    };
    let summary = match demo::run(settings, stop).await {
        Ok(summary) => summary,
        Err(error) => return failed(&error),
    };
    let text = match output {
        Output::Table => summary.to_string(),
        Output::Json => match serde_json::to_string_pretty(&summary) {
            Ok(text) => text,
            Err(error) => return failed(&error.into()),
        },
    };
    // A closed pipe is the reader's wish.
    let _ = writeln!(std::io::stdout(), "{text}");
    ExitCode::SUCCESS
}

fn settings(args: DemoArgs) -> Result<DemoSettings, String> {
    if !(1..=MAX_FULL).contains(&args.devices) {
        return Err(format!("--devices {}: give a number from 1 to {MAX_FULL}", args.devices));
    }
    ScaledClock::starting_now(args.speed).map_err(|error| format!("--speed: {error}"))?;
    if let Some(url) = &args.database_url
        && !["sqlite://", "postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
    {
        return Err(format!("--database-url {url:?}: expected sqlite://FILE or postgres://USER@HOST/DATABASE"));
    }
    if let Some(dir) = &args.keep {
        let shown = dir.display();
        if dir.exists() && !dir.is_dir() {
            return Err(format!("--keep {shown}: this is a file, give a folder"));
        }
        if dir.join("fleetmend.toml").exists() {
            return Err(format!("--keep {shown}: an earlier run is kept there, give another folder"));
        }
    }
    let announce = match args.output {
        Output::Table => |text: &str| println!("{text}"),
        Output::Json => |text: &str| eprintln!("{text}"),
    };
    Ok(DemoSettings {
        devices: args.devices,
        seed: args.seed,
        speed: args.speed,
        length: args.length,
        drain: args.drain,
        keep: args.keep,
        database_url: args.database_url,
        fsync: args.fsync,
        announce,
    })
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a duration like 60s, 2m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn asked(line: &str) -> Result<DemoSettings, String> {
        let words = std::iter::once("fleetmend-sim").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        match cli.command {
            Command::Demo(args) => settings(args),
            Command::Fleet(_) | Command::Controller(_) | Command::Pcs(_) => Err("another command".to_owned()),
        }
    }

    #[test]
    fn the_plain_demo_has_200_devices_and_ends_at_ctrl_c() {
        let settings = asked("demo").expect("the plain demo");
        assert_eq!((settings.devices, settings.length, settings.database_url), (200, None, None));
    }

    #[test]
    fn bad_flags_are_named() {
        for (line, named) in [
            ("demo --devices 0", "--devices 0"),
            ("demo --devices 1001", "1 to 1000"),
            ("demo --speed 0", "--speed"),
            ("demo --speed fast", "--speed"),
            ("demo --for soon", "60s, 2m"),
            ("demo --database-url mysql://x", "postgres://"),
            ("demo --output xml", "--output"),
            ("demo --seed -1", "--seed"),
            ("demo --colour", "--colour"),
        ] {
            let error = asked(line).expect_err(line);
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
