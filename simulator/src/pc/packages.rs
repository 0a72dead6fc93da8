//! Package files that the model understands: text that names the KB and the architecture, in place of an update's payload.

use std::path::{Path, PathBuf};

use fleetmend_proto::{Kb, PackageHash, condition::Architecture};
use sha2::{Digest as _, Sha256};

use super::profile;

const FIRST_LINE: &str = "fleetmend simulated package";

/// Writes the packages a company would have vetted into a folder, `KB5991011-x64.msu` and so on; what is there with
/// another content is replaced.
///
/// # Errors
/// Whatever the file system says.
pub fn write_packages(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    let mut paths = Vec::new();
    for (name, kb, arch) in profile::packages() {
        let path = dir.join(&name);
        std::fs::write(&path, format!("{FIRST_LINE}\nfile {name}\nkb {kb}\narch {arch}\n"))?;
        paths.push(path);
    }
    Ok(paths)
}

/// What a package file installs, and on which PCs.
pub struct Package {
    pub kb: Kb,
    pub architecture: Architecture,
}

/// Reads a package file; `None` for a file that is no package.
pub fn read(path: &Path) -> Option<Package> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    if lines.next()? != FIRST_LINE {
        return None;
    }
    let value = |name| text.lines().find_map(|line| line.strip_prefix(name));
    Some(Package { kb: value("kb ")?.parse().ok()?, architecture: Architecture::from_word(value("arch ")?)? })
}

/// The file of a folder that has this hash.
pub fn find(dir: &Path, hash: PackageHash) -> std::io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file() && Sha256::digest(std::fs::read(&path)?)[..] == hash.0 {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
