//! New outcomes since the last pass, for the running agent. Blocking: call it off the async threads.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_proto::Outcome;

use super::{
    cursor::{self, Cursor, PASS_LIMIT},
    merge,
    record::{Mark, Problem, Record},
};
use crate::platform::RecordFile;

/// How long a reported attempt waits for late records of other sources, by the records' own time.
const LATE: TimeDelta = TimeDelta::minutes(30);
/// Attempts of one file that wait so.
const WAITING: usize = 256;

/// How long an attempt that is told only in part is held back. Domain time.
pub const SETTLE: TimeDelta = TimeDelta::minutes(2);
/// Attempts held back at most; those above are reported as they are.
const HELD: usize = 512;

/// Reads record files from where it stopped.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    cursors: BTreeMap<PathBuf, Cursor>,
}

/// What one pass found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Oldest first.
    pub outcomes: Vec<Outcome>,
    /// Lines and events that could not be understood, and files that could not be read.
    pub problems: Vec<Problem>,
    /// Cursors that changed. INVARIANT: stored in the transaction that stores `outcomes`, else a crash loses or repeats.
    pub cursors: Vec<(PathBuf, Cursor)>,
    /// A file was longer than one pass reads; the next pass goes on.
    pub more: bool,
    /// Attempts that are held back.
    pub held: usize,
}

impl Detector {
    /// Goes on from stored cursors; from the beginning of each file that has none.
    #[must_use]
    pub fn new(cursors: impl IntoIterator<Item = (PathBuf, Cursor)>) -> Self {
        Self { cursors: cursors.into_iter().collect() }
    }

    /// Reads what is new in `files`. When what is found cannot be stored, make a new detector from the stored cursors.
    ///
    /// Sources record one attempt in any order, and the first may lack the update's id or hold a code that only wraps
    /// the real one. With `now`, such an attempt is held back until it is [`SETTLE`] old, so that its outcome says all;
    /// without, nothing is waited for.
    pub fn read(&mut self, files: &[RecordFile], now: Option<DateTime<Utc>>) -> Found {
        let before = self.cursors.clone();
        let mut found = Found::default();
        let mut records = self.held();
        records.extend(self.records(files, &mut found));

        // Attempts reported before, of all files, take in late records of other sources.
        let mut known: Vec<(PathBuf, Vec<Mark>)> = Vec::new();
        for (path, cursor) in &mut self.cursors {
            known.extend(std::mem::take(&mut cursor.reported).into_iter().map(|marks| (path.clone(), marks)));
        }
        let (paths, records): (Vec<PathBuf>, Vec<Record>) = records.into_iter().unzip();
        let marks: Vec<Vec<Mark>> = known.iter().map(|(_, marks)| marks.clone()).collect();
        for attempt in merge::attempts(&marks, &records) {
            let members: Vec<&Record> = attempt.records.iter().filter_map(|&index| records.get(index)).collect();
            let marks = members.iter().map(|record| record.mark.clone());
            if let Some((_, waiting)) = attempt.known.and_then(|index| known.get_mut(index)) {
                waiting.extend(marks);
                continue;
            }
            // What the rest of a long file holds is read at once, whatever the time.
            let may_settle = found.more || now.is_some_and(|now| is_fresh(&members, now));
            if may_settle && found.held < HELD && merge::is_told_in_part(&members) {
                found.held += 1;
                for &index in &attempt.records {
                    let cursor = paths.get(index).and_then(|path| self.cursors.get_mut(path));
                    if let (Some(cursor), Some(record)) = (cursor, records.get(index)) {
                        cursor.held.push(record.clone());
                    }
                }
                continue;
            }
            found.outcomes.extend(merge::outcome(&members));
            let path = attempt.records.first().and_then(|&index| paths.get(index)).cloned().unwrap_or_default();
            known.push((path, marks.collect()));
        }
        found.outcomes.sort_by_key(|outcome| outcome.occurred_at);
        self.keep_waiting(known);

        let changed = self.cursors.iter().filter(|(path, cursor)| before.get(*path) != Some(*cursor));
        found.cursors = changed.map(|(path, cursor)| (path.clone(), cursor.clone())).collect();
        found
    }

    /// Records of attempts that were held back, each with its file.
    fn held(&mut self) -> Vec<(PathBuf, Record)> {
        let of = |(path, cursor): (&PathBuf, &mut Cursor)| {
            let path = path.clone();
            std::mem::take(&mut cursor.held).into_iter().map(move |record| (path.clone(), record))
        };
        self.cursors.iter_mut().flat_map(of).collect()
    }

    /// Records that were not read before, each with its file.
    fn records(&mut self, files: &[RecordFile], found: &mut Found) -> Vec<(PathBuf, Record)> {
        let mut seen: HashSet<_> = self.cursors.values().flat_map(|cursor| cursor.seen().cloned()).collect();
        let mut records = Vec::new();
        for file in files {
            let pass = cursor::pass(&file.path, self.cursors.get(&file.path), false, PASS_LIMIT);
            found.problems.extend(pass.problems);
            found.more |= pass.more;
            let Some(mut cursor) = pass.cursor else { continue };
            for record in pass.records {
                if seen.insert(record.identity.clone()) {
                    cursor.remember(&record);
                    records.push((file.path.clone(), record));
                }
            }
            self.cursors.insert(file.path.clone(), cursor);
        }
        records
    }

    /// Gives each attempt that may still get late records back to the cursor of its file.
    fn keep_waiting(&mut self, known: Vec<(PathBuf, Vec<Mark>)>) {
        let newest = |marks: &[Mark]| marks.iter().map(|mark| mark.at).max();
        let Some(now) = known.iter().filter_map(|(_, marks)| newest(marks)).max() else { return };
        for (path, marks) in known {
            if newest(&marks).is_some_and(|at| now - at <= LATE)
                && let Some(cursor) = self.cursors.get_mut(&path)
            {
                cursor.reported.push(marks);
            }
        }
        for cursor in self.cursors.values_mut() {
            let surplus = cursor.reported.len().saturating_sub(WAITING);
            cursor.reported.drain(..surplus);
        }
    }
}

/// Whether the first record of an attempt is so young that others may still come. One from the future is not.
fn is_fresh(records: &[&Record], now: DateTime<Utc>) -> bool {
    records.iter().map(|record| record.mark.at).min().is_some_and(|at| (now - at).abs() < SETTLE)
}
