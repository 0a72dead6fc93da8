//! Codes that only say "something inside failed": replaced by the inner code where one was recorded.
//! Called by detection, which keeps the recorded code beside the effective one.

use fleetmend_proto::HResult;

/// The wrapping codes. Each hides the code of a handler, a package or a transfer below it.
pub const WRAPPERS: [HResult; 9] = [
    HResult(0x0024_0003),
    HResult(0x8000_4005),
    HResult(0x8007_0643),
    HResult(0x8024_0022),
    HResult(0x8024_0034),
    HResult(0x8024_0FFF),
    HResult(0x8024_200B),
    HResult(0x8024_2FFF),
    HResult(0x8024_6009),
];

/// Installer exit codes that stay what they are: 1641 and 3010 say "done, restart", and are no errors.
const EXIT_CODES: [u32; 2] = [1641, 3010];

/// Whether a code only wraps another.
#[must_use]
pub fn is_wrapper(code: HResult) -> bool {
    WRAPPERS.contains(&code)
}

/// The effective code: the inner one where `recorded` wraps and an inner one is known (a bare Win32 number as the
/// HRESULT it stands for), else `recorded`. An inner code of 0 says nothing.
#[must_use]
pub fn unwrap_code(recorded: HResult, inner: Option<HResult>) -> HResult {
    match inner {
        Some(inner) if is_wrapper(recorded) && inner != HResult::OK => whole(inner),
        Some(_) | None => recorded,
    }
}

fn whole(inner: HResult) -> HResult {
    match u16::try_from(inner.0) {
        Ok(number) if !EXIT_CODES.contains(&inner.0) => HResult::from_win32(number),
        Ok(_) | Err(_) => inner,
    }
}
