//! The caches of Windows Update set aside and put back, free space, packages. Renames only; nothing is deleted here.
//!
//! Not tried on real Windows: that CryptSvc lets go of catroot2 within its stop. Check: stop the service, rename the folder
//! by hand, start it, and see the folder built anew.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::windows::{ffi::OsStringExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use fleetmend_proto::PackageHash;
use sha2::{Digest as _, Sha256};
use windows::{
    Win32::{
        Storage::FileSystem::{FILE_FLAG_OPEN_REPARSE_POINT, FILE_SHARE_READ, GetDiskFreeSpaceExW},
        System::SystemInformation::GetSystemWindowsDirectoryW,
    },
    core::HSTRING,
};

use super::{
    error::{failed, unavailable},
    handles::{Access, OpenFolder},
};
use crate::platform::{Folder, PlatformError, Result};

/// `C:\Windows`, as the system itself says: no environment variable is believed.
pub(super) fn windows_folder() -> PathBuf {
    let mut buffer = [0u16; 260];
    // SAFETY: the buffer is writable for its length.
    let length = unsafe { GetSystemWindowsDirectoryW(Some(&mut buffer)) };
    let name = buffer.get(..usize::try_from(length).unwrap_or_default()).filter(|it| !it.is_empty());
    name.map_or_else(|| PathBuf::from(r"C:\Windows"), |name| PathBuf::from(OsString::from_wide(name)))
}

/// `C:\Windows\System32`.
pub(super) fn system_folder() -> PathBuf {
    windows_folder().join("System32")
}

pub(super) fn update_folder() -> PathBuf {
    windows_folder().join("SoftwareDistribution")
}

fn path_of(folder: &Folder) -> PathBuf {
    match folder {
        Folder::DataStore => update_folder().join("DataStore"),
        Folder::Download => update_folder().join("Download"),
        Folder::Catroot2 => system_folder().join("catroot2"),
    }
}

fn aside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PlatformError::Io { what: format!("looking for {}", path.display()), source }),
    }
}

pub(super) fn folder_exists(folder: &Folder) -> Result<bool> {
    exists(&path_of(folder))
}

pub(super) fn aside_exists(folder: &Folder, suffix: &str) -> Result<bool> {
    exists(&aside(&path_of(folder), suffix))
}

/// Renames the folder to `<name>.<suffix>` beside it; never overwrites.
pub(super) fn set_aside(folder: &Folder, suffix: &str) -> Result<()> {
    let path = path_of(folder);
    let _parent = hold_parent(&path)?;
    OpenFolder::open(&path, Access::Rename)?.rename(&aside(&path, suffix))
}

/// Renames `<name>.<suffix>` back; what stands in the way becomes `<name>.<suffix>.new` first.
pub(super) fn put_back(folder: &Folder, suffix: &str) -> Result<()> {
    let path = path_of(folder);
    let copy = aside(&path, suffix);
    let _parent = hold_parent(&path)?;
    // The copy is checked before anything moves.
    let old = OpenFolder::open(&copy, Access::Rename)?;
    if exists(&path)? {
        OpenFolder::open(&path, Access::Rename)?.rename(&aside(&copy, "new"))?;
    }
    old.rename(&path)
}

/// SECURITY: while it is held the parent can neither be renamed nor replaced by a link.
fn hold_parent(path: &Path) -> Result<OpenFolder> {
    let parent = path.parent().ok_or_else(|| unavailable(path.display().to_string(), "it has no parent folder"))?;
    OpenFolder::open(parent, Access::Hold)
}

/// Bytes that the system may still write to its volume.
pub(super) fn free_bytes() -> Result<u64> {
    let folder = windows_folder();
    let mut free = 0;
    // SAFETY: the name ends with a zero, `free` is writable.
    unsafe { GetDiskFreeSpaceExW(&HSTRING::from(folder.as_os_str()), None, None, Some(&raw mut free)) }
        .map_err(|error| failed(format!("free space of {}", folder.display()), &error))?;
    Ok(free)
}

/// A package of `folder` by its hash, and the handle under which nobody can change it: keep it open while it is used.
pub(super) fn package(folder: Option<&Path>, hash: PackageHash) -> Result<(PathBuf, File)> {
    let Some(folder) = folder else {
        return Err(unavailable("the package", "no folder with packages is configured (key package_folder)"));
    };
    let io = |source| PlatformError::Io { what: format!("reading package folder {}", folder.display()), source };
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !entry.file_type().map_err(io)?.is_file() {
            continue;
        }
        // SECURITY: hashed and used under one handle that lets others read only.
        let opened = fs::OpenOptions::new()
            .read(true)
            .share_mode(FILE_SHARE_READ.0)
            .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT.0)
            .open(entry.path());
        let Ok(mut file) = opened else { continue };
        if sha256(&mut file).map_err(io)? == hash.0 {
            return Ok((entry.path(), file));
        }
    }
    Err(unavailable("the package", format!("no file in {} has the SHA-256 {hash}", folder.display())))
}

fn sha256(file: &mut File) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = io::Read::read(file, &mut buffer)?;
        if count == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
}
