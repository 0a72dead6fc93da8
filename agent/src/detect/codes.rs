//! From recorded codes to the effective one: wrappers give way to the code inside them. Pure.

use fleetmend_domain::catalogue::is_wrapper;
use fleetmend_proto::HResult;

/// "Succeeded, and a restart is owed" (`WU_S_REBOOT_REQUIRED`).
pub const REBOOT_REQUIRED: HResult = HResult(0x0024_0005);

/// The code to go by: `recorded` in its canonical form, or the first of `inner` that says more where it is a wrapper.
#[must_use]
pub fn effective(recorded: HResult, inner: impl IntoIterator<Item = HResult>) -> HResult {
    let recorded = recorded.without_nt_bit();
    if !is_wrapper(recorded) {
        return recorded;
    }
    let says_more = |code: &HResult| code.is_failure() && !is_wrapper(*code);
    inner.into_iter().map(HResult::without_nt_bit).find(says_more).unwrap_or(recorded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapper_gives_way_to_the_first_code_that_says_more() {
        let (wrapper, inner) = (HResult(0x8024_200B), HResult(0x8007_3712));
        assert_eq!(effective(wrapper, [HResult::OK, HResult(0x8007_0643), inner]), inner);
        assert_eq!(effective(wrapper, []), wrapper);
        assert_eq!(effective(inner, [HResult(0x800F_0922)]), inner);
        assert_eq!(effective(HResult(0xD000_0017), []), HResult(0xC000_0017));
        assert_eq!(effective(wrapper, [HResult(0xD000_0017)]), HResult(0xC000_0017));
    }
}
