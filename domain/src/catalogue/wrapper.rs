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

/// Whether a code only wraps another.
#[must_use]
pub fn is_wrapper(code: HResult) -> bool {
    WRAPPERS.contains(&code)
}
