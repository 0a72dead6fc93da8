//! Errors of Windows as answers of the platform. Used by every file of this folder.

use fleetmend_proto::HResult;
use windows::core::Error;

use crate::platform::PlatformError;

const FILE_NOT_FOUND: u32 = 0x8007_0002;
const PATH_NOT_FOUND: u32 = 0x8007_0003;
/// Class not registered, not implemented, no such procedure, no such service, call not implemented.
const NOT_THERE: [u32; 5] = [0x8004_0154, 0x8000_4001, 0x8007_007F, 0x8007_0424, 0x8007_0078];

pub(super) fn code(error: &Error) -> HResult {
    HResult(error.code().0.cast_unsigned())
}

/// Whether a file, key or value is not there.
pub(super) fn is_missing(error: &Error) -> bool {
    matches!(code(error).0, FILE_NOT_FOUND | PATH_NOT_FOUND)
}

/// `Unavailable` where this Windows does not have what was asked for, else `Failed` with the code.
pub(super) fn failed(what: impl Into<String>, error: &Error) -> PlatformError {
    let (what, code) = (what.into(), code(error));
    let why = error.message().trim().to_owned();
    if NOT_THERE.contains(&code.0) {
        let why = if why.is_empty() { code.to_string() } else { format!("{why} ({code})") };
        return PlatformError::Unavailable { what, why };
    }
    PlatformError::Failed { what, code, why }
}

pub(super) fn unavailable(what: impl Into<String>, why: impl Into<String>) -> PlatformError {
    PlatformError::Unavailable { what: what.into(), why: why.into() }
}

/// A refusal of our own, with Windows' code for "access denied".
pub(super) fn refused(what: impl Into<String>, why: impl Into<String>) -> PlatformError {
    PlatformError::Failed { what: what.into(), code: HResult(0x8007_0005), why: why.into() }
}
