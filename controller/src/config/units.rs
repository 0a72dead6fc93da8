//! Values with a unit, as people write them in the file: "15m", "256KiB".

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A length of time, written "500ms", "15m" or "21days".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes, written "512", "256KiB" or "8MiB".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u32);

impl Span {
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    #[must_use]
    pub const fn minutes(minutes: u64) -> Self {
        Self::seconds(minutes * 60)
    }

    #[must_use]
    pub const fn hours(hours: u64) -> Self {
        Self::minutes(hours * 60)
    }

    #[must_use]
    pub const fn days(days: u64) -> Self {
        Self::hours(days * 24)
    }

    /// `None` for zero, which switches off what the key stands for.
    #[must_use]
    pub fn or_off(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl Size {
    #[must_use]
    pub const fn kib(kib: u32) -> Self {
        Self(kib * 1024)
    }

    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Self).map_err(|_| {
            format!("{text:?} is no duration: write a number and a unit, as in \"500ms\", \"15m\" or \"21days\"")
        })
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("{text:?} is no size: write bytes as in \"512\", \"256KiB\" or \"8MiB\", below 4 GiB");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim_start() {
            "" | "B" => 1,
            "KiB" => 1024,
            "MiB" => 1024 * 1024,
            _ => return Err(bad()),
        };
        number.parse::<u32>().ok().and_then(|number| number.checked_mul(factor)).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u32 = 1024;
        match self.0 {
            bytes if bytes > 0 && bytes.is_multiple_of(KIB * KIB) => write!(f, "{}MiB", bytes / KIB / KIB),
            bytes if bytes > 0 && bytes.is_multiple_of(KIB) => write!(f, "{}KiB", bytes / KIB),
            bytes => write!(f, "{bytes}"),
        }
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

as_text!(Span);
as_text!(Size);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_they_are_read() {
        for text in ["15m", "500ms", "2h", "21days"] {
            let span: Span = text.parse().expect("a duration");
            assert_eq!(span.to_string().parse::<Span>(), Ok(span), "{text}");
        }
        for text in ["0", "512", "256KiB", "8MiB"] {
            assert_eq!(text.parse::<Size>().map(|size| size.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn numbers_without_a_meaning_are_refused() {
        for text in ["", "15", "15 parsecs", "-1s"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
        for text in ["", "KiB", "-1", "256KB", "5000MiB", "99999999999"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }
}
