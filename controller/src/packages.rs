//! The company's vetted update packages: files in one folder, named by KB and architecture, known by their SHA-256.
//!
//! `windows11.0-kb5999991-x64.msu` is the package of KB5999991 for x64. Orders pin the hash; the file itself never travels
//! over the wire. Read by the decide loop; written by nobody here.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use fleetmend_proto::{Kb, PackageHash, condition::Architecture};
use sha2::{Digest as _, Sha256};

/// What a package is for.
type Key = (Kb, Architecture);

/// The packages of a folder as of the last [`Packages::refresh`]; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Packages {
    folder: PathBuf,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    by_key: HashMap<Key, PackageHash>,
    /// Files hashed before: not read again while size and time of change stay.
    hashed: HashMap<PathBuf, (u64, SystemTime, PackageHash)>,
}

/// Why the folder was not read. What was known before stays in force.
#[derive(Debug, thiserror::Error)]
#[error("package {path:?} cannot be read: check the `packages` key of the configuration and the file's permissions")]
pub struct PackagesError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Packages {
    /// Nothing is read before the first [`Packages::refresh`].
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, known: Arc::default() }
    }

    /// The package of an update for an architecture.
    #[must_use]
    pub fn find(&self, kb: Option<Kb>, architecture: Architecture) -> Option<PackageHash> {
        self.lock().by_key.get(&(kb?, architecture)).copied()
    }

    /// Reads the folder again; gives the number of packages. A missing folder holds none. Blocking: large files are hashed.
    ///
    /// # Errors
    /// When the folder or a file in it can't be read.
    pub fn refresh(&self) -> Result<usize, PackagesError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| PackagesError { path, source }
        };
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                *self.lock() = Known::default();
                return Ok(0);
            }
            Err(source) => return Err(error(&self.folder)(source)),
        };
        let mut known = Known::default();
        for entry in entries {
            let path = entry.map_err(error(&self.folder))?.path();
            let Some(key) = path.file_name().and_then(|name| key_of(&name.to_string_lossy())) else { continue };
            let metadata = path.metadata().map_err(error(&path))?;
            if !metadata.is_file() {
                continue;
            }
            let changed = metadata.modified().map_err(error(&path))?;
            let before = self.lock().hashed.get(&path).copied();
            let hash = match before {
                Some((size, at, hash)) if size == metadata.len() && at == changed => hash,
                Some(_) | None => hash_of(&path).map_err(error(&path))?,
            };
            known.hashed.insert(path.clone(), (metadata.len(), changed, hash));
            if known.by_key.insert(key, hash).is_some_and(|other| other != hash) {
                tracing::warn!(package = %path.display(), "two different packages for {} {}: one was taken", key.0, key.1);
            }
        }
        let count = known.by_key.len();
        *self.lock() = known;
        Ok(count)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Only whole values are put in, so a poisoned lock is still good.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// KB and architecture from a file name such as Microsoft's catalogue gives; `None` for any other file.
fn key_of(name: &str) -> Option<Key> {
    let name = name.to_ascii_lowercase();
    let stem = name.strip_suffix(".msu").or_else(|| name.strip_suffix(".cab"))?;
    let mut words = stem.split(|c: char| !c.is_ascii_alphanumeric());
    let kb = words.clone().find_map(|word| word.strip_prefix("kb")?.parse::<Kb>().ok())?;
    let architecture = words.find_map(Architecture::from_word)?;
    Some((kb, architecture))
}

fn hash_of(path: &Path) -> io::Result<PackageHash> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(PackageHash(hasher.finalize().into())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_found_by_kb_and_architecture_and_forgotten_with_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("windows11.0-KB5999991-x64_0a1b.msu");
        std::fs::write(&path, b"package").expect("writing");
        std::fs::write(folder.path().join("readme.txt"), b"-").expect("writing");
        let packages = Packages::new(folder.path().to_owned());
        assert_eq!(packages.find(Some(Kb(5_999_991)), Architecture::X64), None);
        assert_eq!(packages.refresh().expect("readable"), 1);
        let expected = PackageHash(Sha256::digest(b"package").into());
        assert_eq!(packages.find(Some(Kb(5_999_991)), Architecture::X64), Some(expected));
        assert_eq!(packages.find(Some(Kb(5_999_991)), Architecture::Arm64), None);
        assert_eq!(packages.find(None, Architecture::X64), None);
        std::fs::remove_file(path).expect("removing");
        assert_eq!(packages.refresh().expect("readable"), 0);
    }

    #[test]
    fn a_missing_folder_holds_nothing_and_is_no_error() {
        let packages = Packages::new(PathBuf::from("/nonexistent/packages"));
        assert_eq!(packages.refresh().expect("no error"), 0);
    }

    #[test]
    fn names_that_are_no_package_are_passed_over() {
        for name in ["KB5999991.msu", "x64.msu", "kb5999991-x64.exe", "kb12-x64.msu", ""] {
            assert_eq!(key_of(name), None, "{name}");
        }
        assert_eq!(key_of("windows10.0-kb5999991-arm64.cab"), Some((Kb(5_999_991), Architecture::Arm64)));
    }
}
