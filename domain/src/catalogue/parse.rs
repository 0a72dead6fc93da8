//! Reads the catalogue's CSV, checking every field. Called by `Catalogue::parse` alone.

use std::collections::HashSet;

use fleetmend_proto::{HResult, Tier};

use super::{Category, Entry, EntryPoint};

const COLUMNS: [&str; 9] =
    ["code", "symbol", "category", "entry_tier", "max_tier", "retryable", "needs_reboot", "advice", "source"];

/// The first fault of a catalogue file.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("the catalogue cannot be read as CSV: check its quotes and its header")]
    Csv(#[source] csv::Error),
    #[error("the catalogue's header is {found:?}: it must be {}", COLUMNS.join(","))]
    Header { found: String },
    #[error("line {line} of the catalogue, column {column}: {value:?} {fault}")]
    Field { line: u64, column: &'static str, value: String, fault: Fault },
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("is no code: write it like 0x80070103")]
    Code,
    #[error("is there already: keep one row a code")]
    Duplicate,
    #[error("is no category: take one of the known words")]
    Category,
    #[error("is no tier: write 0 to 6, or leave it empty for people")]
    Tier,
    #[error("does not follow from the row: it is the greater of the entry tier and the category's, empty for people")]
    Max,
    #[error("must be yes or no")]
    YesNo,
    #[error("must not be empty")]
    Empty,
}

/// All rows, in the order of the file.
pub(super) fn rows(text: &str) -> Result<Vec<Entry>, CatalogueError> {
    let mut reader = csv::ReaderBuilder::new().from_reader(text.as_bytes());
    let header = reader.headers().map_err(CatalogueError::Csv)?;
    if header.iter().ne(COLUMNS) {
        return Err(CatalogueError::Header { found: header.iter().collect::<Vec<_>>().join(",") });
    }
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    for record in reader.records() {
        let record = record.map_err(CatalogueError::Csv)?;
        let row = Row { line: record.position().map_or(0, csv::Position::line), record: &record };
        let entry = row.entry()?;
        if !seen.insert(entry.code) {
            return Err(row.fault(0, Fault::Duplicate));
        }
        entries.push(entry);
    }
    Ok(entries)
}

struct Row<'a> {
    line: u64,
    record: &'a csv::StringRecord,
}

impl Row<'_> {
    fn entry(&self) -> Result<Entry, CatalogueError> {
        let code: HResult = self.text(0).parse().map_err(|_| self.fault(0, Fault::Code))?;
        if code.to_string() != self.text(0) {
            return Err(self.fault(0, Fault::Code));
        }
        let category = Category::from_word(self.text(2)).ok_or_else(|| self.fault(2, Fault::Category))?;
        let entry = match self.tier(3)? {
            None => EntryPoint::People,
            Some(0) => EntryPoint::Benign,
            Some(number) => EntryPoint::Tier(Tier::try_from(number).map_err(|_| self.fault(3, Fault::Tier))?),
        };
        let max_tier = self.tier(4)?;
        if max_tier != entry.number().map(|number| number.max(category.max_tier())) {
            return Err(self.fault(4, Fault::Max));
        }
        Ok(Entry {
            code,
            symbol: self.text(1).to_owned(),
            category,
            entry,
            max_tier,
            retryable: self.yes_no(5)?,
            needs_reboot: self.yes_no(6)?,
            advice: self.some_text(7)?,
            source: self.some_text(8)?,
        })
    }

    fn text(&self, at: usize) -> &str {
        self.record.get(at).unwrap_or_default()
    }

    fn some_text(&self, at: usize) -> Result<String, CatalogueError> {
        let text = self.text(at);
        if text.trim().is_empty() { Err(self.fault(at, Fault::Empty)) } else { Ok(text.to_owned()) }
    }

    fn tier(&self, at: usize) -> Result<Option<u8>, CatalogueError> {
        match self.text(at) {
            "" => Ok(None),
            text => text
                .parse()
                .ok()
                .filter(|number| *number <= Tier::ResetPc.number())
                .map(Some)
                .ok_or_else(|| self.fault(at, Fault::Tier)),
        }
    }

    fn yes_no(&self, at: usize) -> Result<bool, CatalogueError> {
        match self.text(at) {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(self.fault(at, Fault::YesNo)),
        }
    }

    fn fault(&self, at: usize, fault: Fault) -> CatalogueError {
        let value = self.text(at).chars().take(64).collect();
        CatalogueError::Field { line: self.line, column: COLUMNS.get(at).copied().unwrap_or("?"), value, fault }
    }
}
