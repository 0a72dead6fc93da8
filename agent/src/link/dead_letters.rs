//! Outcomes that the controller will never take, kept for people: one JSON object a line in the data folder.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use fleetmend_proto::{Outcome, Position};

const FILE: &str = "dead-letters.jsonl";

/// The file stops growing here; what comes later is only logged.
const MAX_BYTES: u64 = 1024 * 1024;

/// Where dead letters are kept.
#[derive(Clone, Debug)]
pub struct DeadLetters(PathBuf);

impl DeadLetters {
    #[must_use]
    pub fn new(data_dir: &std::path::Path) -> Self {
        Self(data_dir.join(FILE))
    }

    /// Logs and keeps one. A full disk must not stop the outcomes behind it, so a failed write is only logged.
    pub fn keep(&self, at: Position, outcome: &Outcome, field: &str, reason: &str) {
        tracing::warn!(epoch = at.epoch, seq = at.seq, %field, %reason, file = %self.0.display(),
            "controller rejected an outcome for good; kept as a dead letter");
        if let Err(error) = self.append(at, outcome, field, reason) {
            tracing::error!(%error, file = %self.0.display(), "dead letter cannot be kept");
        }
    }

    fn append(&self, at: Position, outcome: &Outcome, field: &str, reason: &str) -> io::Result<()> {
        let line = serde_json::json!({ "epoch": at.epoch, "seq": at.seq, "field": field, "reason": reason, "outcome": outcome });
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.0)?;
        if file.metadata()?.len() >= MAX_BYTES {
            return Err(io::Error::other("the file holds 1 MiB already: remove it after reading"));
        }
        file.write_all(format!("{line}\n").as_bytes())
    }
}
