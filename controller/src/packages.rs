//! The company's vetted update packages: files in one folder, named by KB, architecture and version of Windows, known by
//! their SHA-256.
//!
//! `windows11.0-kb5999991-x64.msu` is the package of KB5999991 for x64 and any Windows 11; a build among the words
//! (`windows11.0-kb5999991-x64-26100.msu`) narrows it to that one. Orders pin the hash; the file itself never travels
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

type Key = (Kb, Architecture);

/// Windows 11 and the servers of its time begin here
/// (<https://learn.microsoft.com/windows/release-health/windows11-release-information>).
const FIRST_BUILD_OF_11: i64 = 22_000;

/// Which Windows a package is for, as far as its name tells. The more it tells, the better it fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Windows {
    build: Option<i64>,
    generation: Option<Generation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    Ten,
    Eleven,
}

#[derive(Clone, Debug)]
struct Package {
    windows: Windows,
    hash: PackageHash,
    file: String,
}

/// Two files that differ are both the package: which one is meant is for people to say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} are different packages for the same Windows: remove all but one from the package folder, or put the build into \
     their names", .files.join(" and ")
)]
pub struct Ambiguous {
    files: Vec<String>,
}

/// The packages of a folder as of the last [`Packages::refresh`]; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Packages {
    folder: PathBuf,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    by_key: HashMap<Key, Vec<Package>>,
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

    /// The package of an update for a PC: the one whose name says most of that PC's Windows.
    ///
    /// # Errors
    /// [`Ambiguous`] when several files fit equally and are not the same.
    pub fn find(
        &self,
        kb: Option<Kb>,
        architecture: Architecture,
        os_build: i64,
    ) -> Result<Option<PackageHash>, Ambiguous> {
        let Some(kb) = kb else { return Ok(None) };
        let known = self.lock();
        let packages = known.by_key.get(&(kb, architecture)).map(Vec::as_slice).unwrap_or_default();
        let fitting = || packages.iter().filter_map(|it| Some((it.windows.fit(os_build)?, it)));
        let Some(best) = fitting().map(|(fit, _)| fit).max() else { return Ok(None) };
        let best: Vec<_> = fitting().filter(|(fit, _)| *fit == best).map(|(_, package)| package).collect();
        if best.iter().all(|it| it.hash == best[0].hash) {
            return Ok(Some(best[0].hash));
        }
        let mut files: Vec<_> = best.iter().map(|it| it.file.clone()).collect();
        files.sort_unstable();
        Err(Ambiguous { files })
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
            let Some(file) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
            let Some((key, windows)) = key_of(&file) else { continue };
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
            known.by_key.entry(key).or_default().push(Package { windows, hash, file });
        }
        let count = known.by_key.values().map(Vec::len).sum();
        *self.lock() = known;
        Ok(count)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Only whole values are put in, so a poisoned lock is still good.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Windows {
    /// How well it fits a PC of that build: 2 = its build, 1 = its generation, 0 = it does not say; `None` = not at all.
    fn fit(self, os_build: i64) -> Option<u8> {
        let generation = if os_build < FIRST_BUILD_OF_11 { Generation::Ten } else { Generation::Eleven };
        if self.generation.is_some_and(|it| it != generation) {
            return None;
        }
        match self.build {
            Some(build) => (build == os_build).then_some(2),
            None => Some(u8::from(self.generation.is_some())),
        }
    }
}

/// KB, architecture and Windows from a file name such as Microsoft's catalogue gives; `None` for any other file.
fn key_of(name: &str) -> Option<(Key, Windows)> {
    let name = name.to_ascii_lowercase();
    let stem = name.strip_suffix(".msu").or_else(|| name.strip_suffix(".cab"))?;
    let words = stem.split(|c: char| !c.is_ascii_alphanumeric());
    let kb = words.clone().find_map(|word| word.strip_prefix("kb")?.parse::<Kb>().ok())?;
    let architecture = words.clone().find_map(Architecture::from_word)?;
    let windows = Windows {
        generation: words.clone().find_map(|word| match word {
            "windows10" => Some(Generation::Ten),
            "windows11" => Some(Generation::Eleven),
            _ => None,
        }),
        build: words.filter(|word| word.len() == 5).find_map(|word| word.parse().ok()),
    };
    Some(((kb, architecture), windows))
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

    const KB: Option<Kb> = Some(Kb(5_999_991));

    /// A folder of files with their names as content, unless they say otherwise.
    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Packages) {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).expect("written");
        }
        let packages = Packages::new(folder.path().to_owned());
        packages.refresh().expect("readable");
        (folder, packages)
    }

    fn hash(content: &str) -> PackageHash {
        PackageHash(Sha256::digest(content).into())
    }

    #[test]
    fn a_package_is_found_by_kb_and_architecture_and_forgotten_with_its_file() {
        let (folder, packages) = folder(&[("windows11.0-KB5999991-x64_0a1b.msu", "package"), ("readme.txt", "-")]);
        assert_eq!(packages.find(KB, Architecture::X64, 26_100), Ok(Some(hash("package"))));
        assert_eq!(packages.find(KB, Architecture::Arm64, 26_100), Ok(None));
        assert_eq!(packages.find(None, Architecture::X64, 26_100), Ok(None));
        std::fs::remove_file(folder.path().join("windows11.0-KB5999991-x64_0a1b.msu")).expect("removed");
        assert_eq!(packages.refresh().expect("readable"), 0);
        assert_eq!(packages.find(KB, Architecture::X64, 26_100), Ok(None));
    }

    #[test]
    fn a_package_is_for_the_windows_in_its_name() {
        let (_folder, packages) = folder(&[
            ("windows10.0-kb5999991-x64.msu", "ten"),
            ("windows11.0-kb5999991-x64.msu", "eleven"),
            ("windows11.0-kb5999991-x64-22631.msu", "23H2"),
            ("kb5999991-arm64.cab", "any"),
        ]);
        for (build, expected) in [(19_045, "ten"), (26_100, "eleven"), (22_631, "23H2")] {
            assert_eq!(packages.find(KB, Architecture::X64, build), Ok(Some(hash(expected))), "{build}");
        }
        assert_eq!(packages.find(KB, Architecture::Arm64, 19_045), Ok(Some(hash("any"))));
        let (_folder, packages) = folder(&[("windows10.0-kb5999991-x64.msu", "ten")]);
        assert_eq!(packages.find(KB, Architecture::X64, 26_100), Ok(None), "the package of another Windows");
    }

    #[test]
    fn two_different_packages_for_one_windows_are_none_and_are_named() {
        let (_folder, packages) = folder(&[
            ("windows11.0-kb5999991-x64_1.msu", "one"),
            ("windows11.0-kb5999991-x64_2.msu", "other"),
            ("windows10.0-kb5999991-x64_1.msu", "same"),
            ("windows10.0-kb5999991-x64_2.msu", "same"),
        ]);
        let said = packages.find(KB, Architecture::X64, 26_100).expect_err("which one?").to_string();
        assert!(said.contains("x64_1.msu and windows11.0-kb5999991-x64_2.msu"), "{said}");
        assert_eq!(packages.find(KB, Architecture::X64, 19_045), Ok(Some(hash("same"))), "copies of one file");
    }

    #[test]
    fn a_missing_folder_holds_nothing_and_is_no_error() {
        let packages = Packages::new(PathBuf::from("/nonexistent/packages"));
        assert_eq!(packages.refresh().expect("no error"), 0);
    }

    #[test]
    fn names_that_are_no_package_are_passed_over() {
        for name in ["KB5999991.msu", "x64.msu", "kb5999991-x64.exe", "kb12-x64.msu", ""] {
            assert!(key_of(name).is_none(), "{name}");
        }
        let ten = Windows { generation: Some(Generation::Ten), build: None };
        assert_eq!(key_of("windows10.0-kb5999991-arm64.cab"), Some(((Kb(5_999_991), Architecture::Arm64), ten)));
    }
}
