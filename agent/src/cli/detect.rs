//! `fleetmend-agent detect`: lists the outcomes in collected logs. Reads files only, changes nothing.
//!
//! Standard output holds the list alone; what could not be understood goes to standard error, as `file:line: reason`.

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use chrono::SecondsFormat;
use clap::{Args, ValueEnum};
use fleetmend_proto::{HResult, Kb, Operation, Outcome, OutcomeResult, Source, UpdateKind};
use serde::Serialize;
use uuid::Uuid;

use crate::detect::{self, FolderError};

/// `EX_NOINPUT` of sysexits.h.
const NO_INPUT: u8 = 66;
/// `EX_IOERR` of sysexits.h.
const OUTPUT_FAILED: u8 = 74;

#[derive(Debug, Args)]
pub struct DetectArgs {
    /// Folder with logs collected from a PC; read with all its subfolders.
    #[cfg_attr(not(windows), arg(required = true))]
    #[cfg_attr(windows, doc = "Left out: this PC's own records.")]
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// How to print what was found.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Prints outcomes to standard output and problems to standard error.
#[must_use]
pub fn run(args: &DetectArgs) -> ExitCode {
    run_to(args, &mut io::stdout().lock(), &mut io::stderr().lock())
}

/// [`run`] with its two outputs given.
pub fn run_to(args: &DetectArgs, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let found = match &args.from {
        Some(folder) => detect::outcomes_in(folder),
        None => this_pc(err),
    };
    let collected = match found {
        Ok(collected) => collected,
        Err(error) => {
            // Nowhere is left to tell of a standard error that fails.
            let _ = writeln!(err, "{}", chain(&error));
            return ExitCode::from(NO_INPUT);
        }
    };
    for problem in &collected.problems {
        let _ = writeln!(err, "{problem}");
    }
    let printed = match args.output {
        Format::Json => json(&collected.outcomes, out),
        Format::Table => table(&collected.outcomes, out),
    };
    match printed.and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(err, "cannot write the list: {error}");
            ExitCode::from(OUTPUT_FAILED)
        }
    }
}

/// What this PC's own records hold now; sources that are not there are named.
#[cfg(windows)]
fn this_pc(err: &mut dyn Write) -> Result<detect::Collected, FolderError> {
    let folder = std::env::temp_dir().join(format!("fleetmend-detect-{}", std::process::id()));
    let failed = |source| FolderError::Open { path: folder.clone(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let found = runtime
        .block_on(crate::platform::windows::collect(&folder))
        .map_err(|error| failed(io::Error::other(error)))
        .and_then(|unavailable| {
            for it in unavailable {
                let _ = writeln!(err, "{}: {}", it.source, it.reason);
            }
            detect::outcomes_in(&folder)
        });
    // Copies only; what stays of them is removed with the system's other temporary files.
    let _ = std::fs::remove_dir_all(&folder);
    found
}

#[cfg(not(windows))]
fn this_pc(_err: &mut dyn Write) -> Result<detect::Collected, FolderError> {
    let source = io::Error::other("this system is no Windows: give logs collected from one with --from");
    Err(FolderError::Open { path: PathBuf::new(), source })
}

/// One outcome as printed.
#[derive(Serialize)]
struct Row<'a> {
    occurred_at: String,
    operation: Operation,
    result: OutcomeResult,
    /// Effective.
    code: HResult,
    /// As recorded.
    raw_code: HResult,
    kb: Option<Kb>,
    update_id: Option<Uuid>,
    revision: i32,
    title: Option<&'a str>,
    kind: UpdateKind,
    source: Source,
}

impl<'a> From<&'a Outcome> for Row<'a> {
    fn from(outcome: &'a Outcome) -> Self {
        let update = &outcome.update;
        Self {
            occurred_at: outcome.occurred_at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            operation: outcome.operation,
            result: outcome.result,
            code: outcome.code,
            raw_code: outcome.raw_code,
            kb: update.kb,
            update_id: update.update_id,
            revision: update.revision,
            title: Some(update.title.as_str()).filter(|title| !title.is_empty()),
            kind: update.kind,
            source: outcome.source,
        }
    }
}

fn json(outcomes: &[Outcome], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<Row<'_>> = outcomes.iter().map(Row::from).collect();
    serde_json::to_writer_pretty(&mut *out, &rows)?;
    writeln!(out)
}

fn table(outcomes: &[Outcome], out: &mut dyn Write) -> io::Result<()> {
    if outcomes.is_empty() {
        return writeln!(out, "no outcomes of updates found");
    }
    let heading = ["OCCURRED", "OPERATION", "RESULT", "CODE", "KB", "KIND", "SOURCE", "TITLE"].map(str::to_owned);
    let rows = outcomes.iter().map(Row::from).map(|row| {
        [
            row.occurred_at,
            row.operation.to_string(),
            row.result.to_string(),
            row.code.to_string(),
            row.kb.map(|kb| kb.to_string()).unwrap_or_else(|| "-".into()),
            row.kind.to_string(),
            row.source.to_string(),
            row.title.or(row.update_id.map(|id| id.to_string()).as_deref()).unwrap_or("-").to_owned(),
        ]
    });
    let lines: Vec<[String; 8]> = std::iter::once(heading).chain(rows).collect();
    let mut widths = [0; 8];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn chain(error: &FolderError) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
