//! HRESULTs: one canonical form, `0x%08X`, from the many ways Windows prints them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A 32-bit result code of Windows. Displayed and serialised as `0x80070103`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HResult(pub u32);

/// Text that holds no HRESULT.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an HRESULT: expected a form like 0x80070103, 80070103 or -2147024637")]
pub struct NotAnHResult(pub String);

impl HResult {
    pub const OK: Self = Self(0);

    /// Whether the severity bit says failure.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }

    /// `HRESULT_FROM_WIN32` for a bare Win32 error number (below 0x10000), such as a child's exit code.
    #[must_use]
    pub const fn from_win32(code: u16) -> Self {
        if code == 0 { Self::OK } else { Self(0x8007_0000 | code as u32) }
    }

    /// An NTSTATUS that was made an HRESULT (N bit, 0x1000_0000) as the NTSTATUS itself; anything else unchanged.
    #[must_use]
    pub const fn without_nt_bit(self) -> Self {
        if self.0 & 0xF000_0000 == 0xD000_0000 { Self(self.0 & !0x1000_0000) } else { self }
    }
}

impl fmt::Display for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)
    }
}

impl FromStr for HResult {
    type Err = NotAnHResult;

    /// Accepts `0x80070103`, `80070103`, `-2147024637`, `2147942659`, `0XC1900101 - 0x20017` and
    /// `0x8326CFA2D_C3FD`-like extended forms (the part after the code is dropped). Eight hex digits without a prefix
    /// are hex; other digits are decimal.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || NotAnHResult(text.chars().take(64).collect());
        let head = text.trim().split(['_', ' ']).next().unwrap_or_default();
        let head = head.strip_suffix('-').unwrap_or(head);
        let pattern = if let Some(digits) = head.strip_prefix("0x").or_else(|| head.strip_prefix("0X")) {
            // An extended code carries a ninth digit before the underscore: Windows prints the code first.
            let digits =
                if text.contains('_') && digits.len() > 8 { digits.get(..8).ok_or_else(error)? } else { digits };
            hex(digits).ok_or_else(error)?
        } else if head.len() == 8 && head.bytes().all(|b| b.is_ascii_hexdigit()) {
            hex(head).ok_or_else(error)?
        } else if let Ok(signed) = head.parse::<i32>() {
            signed.cast_unsigned()
        } else {
            head.parse::<u32>().map_err(|_| error())?
        };
        Ok(Self(pattern))
    }
}

fn hex(digits: &str) -> Option<u32> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

impl Serialize for HResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printed_form_is_one_code() {
        let cases = [
            ("0x80070103", 0x8007_0103),
            ("80070103", 0x8007_0103),
            ("-2147024637", 0x8007_0103),
            ("2147942659", 0x8007_0103),
            ("0X8007000D", 0x8007_000D),
            ("0xC1900101 - 0x20017", 0xC190_0101),
            ("0x8326CFA2D_C3FD", 0x8326_CFA2),
            ("0", 0),
            ("0x0", 0),
            ("0x80d02002", 0x80D0_2002),
            ("3010", 3010),
        ];
        for (text, code) in cases {
            assert_eq!(text.parse(), Ok(HResult(code)), "{text}");
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in ["", "0x", "0xZZ", "0x123456789", "99999999999", "hello", "0x8007 0103x", "+0x1"] {
            let parsed = text.parse::<HResult>();
            if text == "0x8007 0103x" {
                assert_eq!(parsed, Ok(HResult(0x8007)));
            } else {
                assert!(parsed.is_err(), "{text} gave {parsed:?}");
            }
        }
    }

    #[test]
    fn printed_form_reads_back() {
        for code in [0, 1, 0x8007_0103, u32::MAX] {
            assert_eq!(HResult(code).to_string().parse(), Ok(HResult(code)));
        }
    }

    #[test]
    fn nt_bit_is_taken_off() {
        assert_eq!(HResult(0xD000_0017).without_nt_bit(), HResult(0xC000_0017));
        assert_eq!(HResult(0x8007_0103).without_nt_bit(), HResult(0x8007_0103));
    }
}
