//! What commands print: a table that fits the terminal, or JSON for programs.

use std::io::{self, IsTerminal as _, Write as _};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{
    exit::{Code, Failure},
    printable::{printable, printable_json},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs: one document on standard output
    Json,
}

/// `--output`, the same for every command that lists or shows.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// How to print the answer
    #[arg(long, short, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
}

impl Output {
    /// Prints `value` as JSON, or what `table` makes of it.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn print<T: Serialize + ?Sized>(self, value: &T, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        match self.output {
            Format::Json => json(value),
            Format::Table => line(&table(value)),
        }
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Code::Internal, format_args!("cannot print the answer as JSON: {error}")))?;
    line(&printable_json(&text))
}

/// One text and a line break to standard output. A reader that went away (`| head`) is no error.
///
/// # Errors
/// When standard output cannot be written.
pub fn line(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Failure::from),
    }
}

/// A table with a header row. Every cell is escaped here and nowhere else.
#[must_use]
pub fn table<R, C>(header: &[&str], rows: R) -> String
where
    R: IntoIterator<Item = C>,
    C: IntoIterator<Item = String>,
{
    let mut table = blank();
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.into_iter().map(|cell| printable(&cell)));
    }
    table.trim_fmt()
}

/// `name  value` lines; long values are wrapped beside their name.
#[must_use]
pub fn fields<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = blank();
    for (name, value) in pairs {
        table.add_row([name.to_owned(), printable(&value)]);
    }
    table.trim_fmt()
}

/// A value, or a dash where there is none.
#[must_use]
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// To the second, UTC: what a person compares with a log.
#[must_use]
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[must_use]
pub const fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// Without lines: easy to read, to copy and to search. Wrapped to the terminal; in a pipe a row stays one line.
fn blank() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else if let Some(columns) = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
}
