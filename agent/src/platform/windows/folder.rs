//! The agent's own folder: made with an access list for SYSTEM and Administrators alone, and refused when it is a link or
//! belongs to somebody else. Keys, orders and journal are in there: who writes there commands the agent.

use std::{io, path::Path};

use windows::{
    Win32::{
        Foundation::{ERROR_ALREADY_EXISTS, HLOCAL, LocalFree},
        Security::{
            ACL,
            Authorization::{
                ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1, SE_FILE_OBJECT, SetSecurityInfo,
            },
            DACL_SECURITY_INFORMATION, GetSecurityDescriptorDacl, GetSecurityDescriptorOwner,
            OWNER_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, PSID,
            SECURITY_ATTRIBUTES,
        },
        Storage::FileSystem::CreateDirectoryW,
    },
    core::{BOOL, Error, HSTRING, w},
};

use super::handles::{Access, OpenFolder};
use crate::link::failure::chain;

/// Freed when dropped.
struct Descriptor(PSECURITY_DESCRIPTOR);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by Windows for us and freed once.
        unsafe { LocalFree(Some(HLOCAL(self.0.0))) };
    }
}

/// Makes the folder and the missing ones above it, or checks and protects the one that is there.
///
/// # Errors
/// When it is a link, no folder, belongs to somebody else, or may not be made.
pub fn prepare(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    // SECURITY: the access list of a folder that others use too must not be changed: a drive, a folder right below it.
    if path.components().count() < 4 {
        let why = format!("{} is not the agent's own: name a folder at least two levels deep", path.display());
        return Err(io::Error::other(why));
    }
    make(&path)?;
    let folder = OpenFolder::open(&path, Access::Protect).map_err(|error| io::Error::other(chain(&error)))?;
    protect(&folder).map_err(io::Error::from)
}

fn make(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent()
        && !parent.exists()
    {
        make(parent)?;
    }
    let descriptor = descriptor().map_err(io::Error::from)?;
    let attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default(),
        lpSecurityDescriptor: descriptor.0.0,
        bInheritHandle: false.into(),
    };
    // SAFETY: the name ends with a zero, the descriptor outlives the call.
    match unsafe { CreateDirectoryW(&HSTRING::from(path.as_os_str()), Some(&raw const attributes)) } {
        Err(error) if error.code() != ERROR_ALREADY_EXISTS.to_hresult() => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Owner Administrators; SYSTEM and Administrators may do everything, below it too; nothing is inherited from above.
fn descriptor() -> Result<Descriptor, Error> {
    let mut descriptor = PSECURITY_DESCRIPTOR::default();
    let text = w!("O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)");
    // SAFETY: the text ends with a zero, `descriptor` is writable.
    unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(text, SDDL_REVISION_1, &raw mut descriptor, None)?;
    }
    Ok(Descriptor(descriptor))
}

/// INVARIANT: by the handle that was checked, so nothing else gets the list. What a person copied there becomes
/// Administrators' too: the service would refuse it else.
fn protect(folder: &OpenFolder) -> Result<(), Error> {
    let descriptor = descriptor()?;
    let (mut is_there, mut is_default) = (BOOL::default(), BOOL::default());
    let mut list: *mut ACL = std::ptr::null_mut();
    let mut owner = PSID::default();
    let what = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION;
    // SAFETY: owner and list live in the descriptor, which outlives all calls.
    unsafe {
        GetSecurityDescriptorOwner(descriptor.0, &raw mut owner, &raw mut is_default)?;
        GetSecurityDescriptorDacl(descriptor.0, &raw mut is_there, &raw mut list, &raw mut is_default)?;
        SetSecurityInfo(folder.raw(), SE_FILE_OBJECT, what, Some(owner), None, Some(list.cast_const()), None).ok()
    }
}
