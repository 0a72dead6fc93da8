//! The name of this controller among those that share a database. It outlives the process, so that the next one finds what
//! a killed one left in the session rows.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use uuid::Uuid;

/// In the data folder.
const FILE: &str = "replica";

/// The host's name and an id kept in `data_dir`. A folder that cannot be written gives a name for this process alone.
#[must_use]
pub fn name(data_dir: &Path) -> String {
    let id = kept(&data_dir.join(FILE)).unwrap_or_else(|error| {
        tracing::warn!(
            data_dir = %data_dir.display(), %error,
            "no replica id is kept: sessions of a killed controller stay open until their devices come back"
        );
        Uuid::new_v4()
    });
    // The host's name tells copies of one folder apart.
    format!("{}-{id}", hostname())
}

fn kept(file: &Path) -> io::Result<Uuid> {
    let new = Uuid::new_v4();
    match OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(mut made) => {
            made.write_all(format!("{new}\n").as_bytes())?;
            made.sync_all()?;
            Ok(new)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text = fs::read_to_string(file)?;
            text.trim().parse().or_else(|_| {
                // Cut short by a full disk or a crash: nobody has used it.
                fs::write(file, format!("{new}\n"))?;
                Ok(new)
            })
        }
        Err(error) => Err(error),
    }
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "controller".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_outlives_the_process_and_is_the_folders_own() {
        let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let first = name(one.path());
        assert_eq!(name(one.path()), first);
        assert_ne!(name(other.path()), first);
        fs::write(one.path().join(FILE), "").expect("cut short");
        let healed = name(one.path());
        assert_ne!(healed, first);
        assert_eq!(name(one.path()), healed);
    }
}
