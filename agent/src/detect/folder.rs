//! All outcomes in a folder of logs collected from a PC, on any system. Reads files; changes none.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use fleetmend_proto::Outcome;

use super::{
    cursor::{self, PASS_LIMIT},
    merge,
    record::{Identity, Problem, Record},
};

/// Why a folder gave nothing at all.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{0} is not a folder: give the folder that holds the collected logs")]
    NotAFolder(PathBuf),
    #[error("cannot open folder {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What a folder held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Oldest first.
    pub outcomes: Vec<Outcome>,
    /// The records that each outcome was made of, in the order of `outcomes`.
    pub records: Vec<Vec<Identity>>,
    pub problems: Vec<Problem>,
}

/// Reads every regular file under `folder`, telling each by its content. Follows no symbolic link below it.
///
/// # Errors
/// When `folder` itself is none or cannot be opened; anything below it that cannot be read is a problem.
pub fn outcomes_in(folder: &Path) -> Result<Collected, FolderError> {
    let open = |source| FolderError::Open { path: folder.to_owned(), source };
    if !fs::metadata(folder).map_err(open)?.is_dir() {
        return Err(FolderError::NotAFolder(folder.to_owned()));
    }
    fs::read_dir(folder).map_err(open)?;

    let mut collected = Collected::default();
    let mut records: Vec<Record> = Vec::new();
    let mut seen = HashSet::new();
    for path in files_under(folder, &mut collected.problems) {
        let mut cursor = None;
        loop {
            let pass = cursor::pass(&path, cursor.as_ref(), true, PASS_LIMIT);
            collected.problems.extend(pass.problems);
            records.extend(pass.records.into_iter().filter(|record| seen.insert(record.identity.clone())));
            if !pass.more {
                break;
            }
            cursor = pass.cursor;
        }
    }
    let mut found: Vec<(Outcome, Vec<Identity>)> = merge::attempts(&[], &records)
        .iter()
        .filter_map(|attempt| {
            let members: Vec<&Record> = attempt.records.iter().filter_map(|&index| records.get(index)).collect();
            let identities = members.iter().map(|record| record.identity.clone()).collect();
            merge::outcome(&members).map(|outcome| (outcome, identities))
        })
        .collect();
    found.sort_by_key(|(outcome, _)| outcome.occurred_at);
    (collected.outcomes, collected.records) = found.into_iter().unzip();
    Ok(collected)
}

/// Regular files in a stable order.
fn files_under(folder: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut failed = |error: &io::Error| {
            problems.push(Problem { file: folder.clone(), line: 0, reason: format!("cannot be listed: {error}") });
        };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                failed(&error);
                continue;
            }
        };
        for entry in entries {
            // The entry's own type: a link stays a link.
            match entry.and_then(|entry| Ok((entry.file_type()?, entry.path()))) {
                Ok((kind, path)) if kind.is_dir() => folders.push(path),
                Ok((kind, path)) if kind.is_file() => files.push(path),
                Ok(_) => {}
                Err(error) => failed(&error),
            }
        }
    }
    files.sort();
    files
}
