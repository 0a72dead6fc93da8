//! Folders and files by handle: opened without following a reparse point, looked at, renamed. Every name is checked on the
//! handle that is then used, so nobody can swap what stands under a name in between.

use std::{
    os::windows::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use windows::{
    Win32::{
        Foundation::{CloseHandle, ERROR_SUCCESS, GENERIC_READ, HANDLE, HLOCAL, LocalFree},
        Security::{
            Authorization::{ConvertSidToStringSidW, GetSecurityInfo, SE_FILE_OBJECT},
            GetTokenInformation, OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, PSID, TOKEN_QUERY, TOKEN_USER,
            TokenUser,
        },
        Storage::FileSystem::{
            BY_HANDLE_FILE_INFORMATION, CreateFileW, DELETE, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_REPARSE_POINT,
            FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT, FILE_READ_ATTRIBUTES, FILE_RENAME_INFO,
            FILE_SHARE_DELETE, FILE_SHARE_MODE, FILE_SHARE_READ, FILE_SHARE_WRITE, FileRenameInfo,
            GetFileInformationByHandle, OPEN_EXISTING, READ_CONTROL, SetFileInformationByHandle, WRITE_DAC,
            WRITE_OWNER,
        },
        System::Threading::{GetCurrentProcess, OpenProcessToken},
    },
    core::{HSTRING, PWSTR},
};

use super::error::{failed, refused};
use crate::platform::Result;

/// SYSTEM, LocalService, NetworkService, Administrators.
const TRUSTED: [&str; 4] = ["S-1-5-18", "S-1-5-19", "S-1-5-20", "S-1-5-32-544"];
/// Accounts of services, TrustedInstaller's and CryptSvc's among them.
const SERVICES: &str = "S-1-5-80-";

/// Closed when dropped.
#[derive(Debug)]
pub(super) struct Handle(pub HANDLE);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and is closed once.
        let _ = unsafe { CloseHandle(self.0) };
    }
}

/// What a handle is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To be looked at, and to keep it from being renamed or removed meanwhile.
    Hold,
    /// To be renamed.
    Rename,
    /// To get another owner and access list.
    Protect,
}

/// A folder that is none of a stranger's, and no reparse point.
#[derive(Debug)]
pub(super) struct OpenFolder {
    handle: Handle,
    path: PathBuf,
}

impl OpenFolder {
    /// # Errors
    /// When it is not there, is a reparse point or no folder, or belongs to an account that is neither Windows' own nor
    /// this program's.
    pub(super) fn open(path: &Path, access: Access) -> Result<Self> {
        let what = || format!("folder {}", path.display());
        let looking = GENERIC_READ.0 | READ_CONTROL.0 | FILE_READ_ATTRIBUTES.0;
        let (rights, sharing) = match access {
            Access::Hold => (looking, FILE_SHARE_READ | FILE_SHARE_WRITE),
            Access::Rename => (looking | DELETE.0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE),
            Access::Protect => (looking | WRITE_DAC.0 | WRITE_OWNER.0, FILE_SHARE_READ | FILE_SHARE_WRITE),
        };
        let handle = open(path, rights, sharing).map_err(|error| failed(what(), &error))?;
        let attributes = attributes(&handle).map_err(|error| failed(what(), &error))?;
        if attributes & FILE_ATTRIBUTE_REPARSE_POINT.0 != 0 {
            return Err(refused(what(), "it is a link or another reparse point: find out who made it, and remove it"));
        }
        if attributes & FILE_ATTRIBUTE_DIRECTORY.0 == 0 {
            return Err(refused(what(), "it is a file, not a folder"));
        }
        let owner = owner(&handle).map_err(|error| failed(format!("the owner of {}", what()), &error))?;
        if !is_trusted(&owner) {
            let why = format!("it belongs to {owner}, not to Windows or this program: find out why, and remove it");
            return Err(refused(what(), why));
        }
        Ok(Self { handle, path: path.to_owned() })
    }

    pub(super) fn raw(&self) -> HANDLE {
        self.handle.0
    }

    /// Gives it another name on the same volume; never overwrites.
    ///
    /// # Errors
    /// When something holds files in it, or the name is taken.
    pub(super) fn rename(self, to: &Path) -> Result<()> {
        let what = format!("renaming {} to {}", self.path.display(), to.display());
        let name: Vec<u16> = to.as_os_str().encode_wide().collect();
        let length = size_of::<FILE_RENAME_INFO>() + name.len() * 2;
        // Aligned for the structure, whose name runs on behind its end; zeros: do not replace, no root folder.
        let mut buffer = vec![0u64; length.div_ceil(8)];
        let info: *mut FILE_RENAME_INFO = buffer.as_mut_ptr().cast();
        let bytes = u32::try_from(name.len() * 2).unwrap_or(u32::MAX);
        // SAFETY: the buffer holds the structure and the whole name after it.
        unsafe {
            (*info).FileNameLength = bytes;
            let to = (&raw mut (*info).FileName).cast::<u16>();
            std::ptr::copy_nonoverlapping(name.as_ptr(), to, name.len());
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            SetFileInformationByHandle(self.handle.0, FileRenameInfo, info.cast(), length)
        }
        .map_err(|error| failed(what, &error))
    }
}

/// Whether an account may own what the agent works on.
pub(super) fn is_trusted(sid: &str) -> bool {
    TRUSTED.contains(&sid) || sid.starts_with(SERVICES) || own_sid().is_ok_and(|own| own == sid)
}

/// The account that this process runs as.
pub(super) fn own_sid() -> windows::core::Result<String> {
    let mut token = HANDLE::default();
    // SAFETY: the pseudo handle of this process is always good; `token` is writable.
    unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) }?;
    let token = Handle(token);
    let mut buffer = [0u64; 32];
    let mut used = 0;
    // SAFETY: the buffer is as long as said and aligned for the structure that is read from it.
    unsafe {
        let size = u32::try_from(size_of_val(&buffer)).unwrap_or_default();
        GetTokenInformation(token.0, TokenUser, Some(buffer.as_mut_ptr().cast()), size, &raw mut used)?;
        let user: *const TOKEN_USER = buffer.as_ptr().cast();
        text_of((*user).User.Sid)
    }
}

fn open(path: &Path, rights: u32, sharing: FILE_SHARE_MODE) -> windows::core::Result<Handle> {
    let flags = FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS;
    // SAFETY: the name ends with a zero.
    unsafe { CreateFileW(&HSTRING::from(path.as_os_str()), rights, sharing, None, OPEN_EXISTING, flags, None) }
        .map(Handle)
}

fn attributes(handle: &Handle) -> windows::core::Result<u32> {
    let mut info = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open, `info` is writable.
    unsafe { GetFileInformationByHandle(handle.0, &raw mut info) }?;
    Ok(info.dwFileAttributes)
}

fn owner(handle: &Handle) -> windows::core::Result<String> {
    let mut owner = PSID::default();
    let mut descriptor = PSECURITY_DESCRIPTOR::default();
    let want = OWNER_SECURITY_INFORMATION;
    // SAFETY: `owner` points into the descriptor, which is freed after the text is made.
    unsafe {
        let status = GetSecurityInfo(
            handle.0,
            SE_FILE_OBJECT,
            want,
            Some(&raw mut owner),
            None,
            None,
            None,
            Some(&raw mut descriptor),
        );
        if status != ERROR_SUCCESS {
            return Err(status.to_hresult().into());
        }
        let text = text_of(owner);
        LocalFree(Some(HLOCAL(descriptor.0)));
        text
    }
}

/// # Safety
/// `sid` points to a security identifier.
unsafe fn text_of(sid: PSID) -> windows::core::Result<String> {
    let mut text = PWSTR::null();
    // SAFETY: the caller's; the text is ours to free.
    unsafe {
        ConvertSidToStringSidW(sid, &raw mut text)?;
        let owned = text.to_string().unwrap_or_default();
        LocalFree(Some(HLOCAL(text.0.cast())));
        Ok(owned)
    }
}
