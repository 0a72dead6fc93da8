//! The PC's own log: JSON lines, appended and synced before anything is believed. It outlives the agent's process, and
//! its effect lines alone judge whether something was executed twice.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use fleetmend_proto::OrderId;
use serde::{Deserialize, Serialize};

use super::change::Change;

/// Name of the log in a PC's folder.
pub const FILE_NAME: &str = "pc.log";

/// A call of an agent that changes something, noted as it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    pub at: DateTime<Utc>,
    pub order: OrderId,
    pub step: u32,
    pub primitive: String,
    pub detail: String,
    /// Which start of the agent's process asked; counts from 1 over the life of the PC.
    pub instance: u64,
    pub boot: u64,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    Effect(Effect),
    Change(Change),
}

/// Why a PC's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} line {line} is damaged and not the last one: the folder of this PC cannot be trusted", path.display())]
    Damaged {
        path: PathBuf,
        line: usize,
        #[source]
        source: serde_json::Error,
    },
}

/// Appends lines; the file is open for as long as the PC.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
    fsync: bool,
}

impl Log {
    /// Opens or makes the log of a folder and gives all whole lines. A torn last line (power loss) is cut off.
    ///
    /// # Errors
    /// [`LogError`] where the file cannot be used or is damaged before its end.
    pub fn open(dir: &Path, fsync: bool) -> Result<(Self, Vec<Line>), LogError> {
        let path = dir.join(FILE_NAME);
        let io = |doing| {
            let path = path.clone();
            move |source| LogError::Io { doing, path, source }
        };
        std::fs::create_dir_all(dir).map_err(io("make the folder of"))?;
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(io("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("read"))?;
        let (lines, whole) = parse(&path, &bytes)?;
        file.set_len(whole).map_err(io("cut the torn end of"))?;
        file.seek(SeekFrom::End(0)).map_err(io("go to the end of"))?;
        Ok((Self { file, path, fsync }, lines))
    }

    /// Appends lines as one write, durable on return where syncing is on.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn append(&mut self, lines: &[Line]) -> Result<(), LogError> {
        let io = |source| LogError::Io { doing: "append to", path: self.path.clone(), source };
        let mut bytes = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut bytes, line).map_err(|error| io(error.into()))?;
            bytes.push(b'\n');
        }
        self.file.write_all(&bytes).map_err(io)?;
        if self.fsync { self.file.sync_data().map_err(io) } else { Ok(()) }
    }
}

/// Reads the log of a folder without changing it. A torn last line is left out.
///
/// # Errors
/// [`LogError`] where the file cannot be read or is damaged before its end.
pub fn read(dir: &Path) -> Result<Vec<Line>, LogError> {
    let path = dir.join(FILE_NAME);
    let bytes = std::fs::read(&path).map_err(|source| LogError::Io { doing: "read", path: path.clone(), source })?;
    parse(&path, &bytes).map(|(lines, _)| lines)
}

/// The whole lines and their length in bytes.
fn parse(path: &Path, bytes: &[u8]) -> Result<(Vec<Line>, u64), LogError> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut lines = Vec::new();
    for (at, text) in bytes[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
        let line = serde_json::from_slice(text).map_err(|source| LogError::Damaged {
            path: path.to_owned(),
            line: at + 1,
            source,
        })?;
        lines.push(line);
    }
    Ok((lines, whole as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(instance: u64) -> Line {
        Line::Change(Change::AgentStarted { instance })
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_the_next_append_is_clean() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut log, _) = Log::open(dir.path(), true).expect("a new log");
        log.append(&[line(1), line(2)]).expect("append");
        drop(log);
        let path = dir.path().join(FILE_NAME);
        let whole = std::fs::read(&path).expect("read");
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("tear");
            let (mut log, lines) = Log::open(dir.path(), true).expect("a torn log opens");
            assert!(lines.len() < 2, "cut at {cut}");
            log.append(&[line(9)]).expect("append");
            drop(log);
            assert_eq!(read(dir.path()).expect("clean").last(), Some(&line(9)), "cut at {cut}");
        }
    }

    #[test]
    fn damage_before_the_end_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join(FILE_NAME), "{\"line\":\"change\"\n{}\n").expect("write");
        let error = Log::open(dir.path(), false).expect_err("damaged");
        assert!(error.to_string().contains("line 1 is damaged"), "{error}");
    }
}
