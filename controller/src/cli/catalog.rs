//! `fleetmend catalog list|show`: what Fleetmend knows of an error code. Offline: the catalogue is part of the binary.

use clap::{Args, Subcommand};
use fleetmend_domain::catalogue::{Catalogue, Category, Entry, EntryPoint};
use fleetmend_proto::HResult;

use super::{
    exit::{Code, Failure},
    output::{Output, fields, or_dash, table, yes_no},
};

#[derive(Debug, Subcommand)]
pub enum Catalog {
    /// All codes, in order of their numbers
    List(List),
    /// One code: what it means, where it enters the ladder, what to do
    #[command(after_help = SHOW_EXAMPLES)]
    Show(Show),
}

const SHOW_EXAMPLES: &str = "\
Examples:
  fleetmend catalog show 0x80070103
  fleetmend catalog show 80070103 --output json
  fleetmend catalog show -2147024637
  fleetmend catalog show '0xC1900101 - 0x20017'";

#[derive(Debug, Args)]
pub struct List {
    /// Only codes of this category, such as `disk_space`
    #[arg(long, value_name = "CATEGORY", value_parser = category)]
    category: Option<Category>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The code as Windows, a log or a script prints it: hexadecimal, or signed or unsigned decimal
    #[arg(allow_negative_numbers = true, value_name = "CODE")]
    code: HResult,
    #[command(flatten)]
    output: Output,
}

impl Catalog {
    /// # Errors
    /// 64 for an unknown category, 66 for a code that the catalogue does not hold.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let entries: Vec<&Entry> = Catalogue::embedded()
            .entries()
            .iter()
            .filter(|entry| self.category.is_none_or(|category| entry.category == category))
            .collect();
        self.output.print(&entries, |entries| {
            table(
                &["CODE", "SYMBOL", "CATEGORY", "ENTRY", "MAX", "RETRYABLE", "REBOOT"],
                entries.iter().map(|entry| {
                    [
                        entry.code.to_string(),
                        entry.symbol.clone(),
                        entry.category.to_string(),
                        or_dash(entry.entry.number()),
                        or_dash(entry.max_tier),
                        yes_no(entry.retryable).to_owned(),
                        yes_no(entry.needs_reboot).to_owned(),
                    ]
                }),
            )
        })
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let Some(entry) = Catalogue::embedded().get(self.code) else {
            return Err(not_in_catalogue(self.code));
        };
        self.output.print(entry, |entry| {
            fields([
                ("Code", entry.code.to_string()),
                ("Symbol", entry.symbol.clone()),
                ("Category", entry.category.to_string()),
                ("Enters at", entry_in_words(entry.entry)),
                ("Climbs to", highest_in_words(entry)),
                ("Retryable", yes_no(entry.retryable).to_owned()),
                ("Needs a restart", yes_no(entry.needs_reboot).to_owned()),
                ("Advice", entry.advice.clone()),
                ("Source", entry.source.clone()),
            ])
        })
    }
}

/// What the ladder does with a code that nobody has described.
fn not_in_catalogue(code: HResult) -> Failure {
    let entry = Catalogue::embedded().resolve(code);
    Failure::new(Code::NotFound, format_args!("{code} is not in the catalogue")).hint(format!(
        "the ladder treats it as category {}: it enters at {} and climbs to {}. {}",
        entry.category,
        entry_in_words(entry.entry),
        highest_in_words(&entry),
        entry.advice
    ))
}

fn category(text: &str) -> Result<Category, String> {
    Category::from_word(text).ok_or_else(|| {
        let known: Vec<_> = Category::ALL.iter().map(|category| category.word()).collect();
        format!("expected one of {}", known.join(", "))
    })
}

fn entry_in_words(entry: EntryPoint) -> String {
    match entry {
        EntryPoint::People => "people: nothing that runs by itself helps".to_owned(),
        EntryPoint::Benign => "harmless: recorded, never climbed".to_owned(),
        EntryPoint::Tier(tier) => format!("tier {tier}"),
    }
}

fn highest_in_words(entry: &Entry) -> String {
    match (entry.entry, entry.highest()) {
        (EntryPoint::Tier(_), Some(tier)) => format!("tier {tier}"),
        (EntryPoint::Benign | EntryPoint::People, _) | (_, None) => "no tier".to_owned(),
    }
}
