//! Bytes of a record file as UTF-8: encodings as Windows' tools write them, and what kind of file it is. Pure.

use encoding_rs::{Encoding as Charset, UTF_16BE, UTF_16LE, WINDOWS_1252};
use serde::{Deserialize, Serialize};

use super::{reporting_events, update_history};

/// How the text of a file is encoded. Found from its head once and kept, so that a piece from its middle reads alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    Utf16Le,
    Utf16Be,
    /// A superset of ASCII: UTF-8, and what is not UTF-8 in the named charset.
    EightBit {
        fallback: String,
    },
}

/// What a file records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    ReportingEvents,
    EventXml,
    UpdateHistory,
    /// Nothing that detection reads.
    Other,
}

impl Encoding {
    /// The encoding of a file by its first bytes, and the length of its byte order mark.
    #[must_use]
    pub fn of(head: &[u8]) -> (Self, usize) {
        if head.starts_with(&[0xEF, 0xBB, 0xBF]) {
            return (Self::eight_bit(head), 3);
        }
        if head.starts_with(&[0xFF, 0xFE]) {
            return (Self::Utf16Le, 2);
        }
        if head.starts_with(&[0xFE, 0xFF]) {
            return (Self::Utf16Be, 2);
        }
        // Without a mark: both formats begin with ASCII, which in UTF-16 has a zero in every second byte.
        let sample = head.get(..head.len().min(64)).unwrap_or_default();
        let zeros = |from: usize| sample.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
        let (even, odd, enough) = (zeros(0), zeros(1), sample.len().div_ceil(8).max(1));
        if odd >= enough && even == 0 {
            (Self::Utf16Le, 0)
        } else if even >= enough && odd == 0 {
            (Self::Utf16Be, 0)
        } else {
            (Self::eight_bit(head), 0)
        }
    }

    /// An XML declaration may name the charset; without one, Western European is the likeliest of all that it can be.
    fn eight_bit(head: &[u8]) -> Self {
        let declared = head
            .get(..head.len().min(256))
            .and_then(|start| start.split(|byte| *byte == b'>').next())
            .map(String::from_utf8_lossy)
            .filter(|start| start.trim_start_matches('\u{feff}').trim_start().starts_with("<?xml"))
            .and_then(|start| {
                let value = start.split_once("encoding")?.1.trim_start().strip_prefix('=')?.trim_start().to_owned();
                let quote = value.chars().next()?;
                let label = value.get(quote.len_utf8()..)?.split(quote).next()?.to_owned();
                Charset::for_label(label.as_bytes())
            })
            .filter(|charset| charset.is_ascii_compatible() && *charset != encoding_rs::UTF_8);
        Self::EightBit { fallback: declared.unwrap_or(WINDOWS_1252).name().to_owned() }
    }

    /// Bytes of one character at least: an odd byte at the end of UTF-16 is left for next time.
    pub(super) fn unit(&self) -> usize {
        match self {
            Self::Utf16Le | Self::Utf16Be => 2,
            Self::EightBit { .. } => 1,
        }
    }

    /// The bytes with UTF-16 made UTF-8; eight-bit text as it is, to be decoded by the piece with [`Self::decode`].
    pub(super) fn widen<'a>(&self, bytes: &'a [u8]) -> std::borrow::Cow<'a, [u8]> {
        let charset = match self {
            Self::Utf16Le => UTF_16LE,
            Self::Utf16Be => UTF_16BE,
            Self::EightBit { .. } => return bytes.into(),
        };
        charset.decode_without_bom_handling(bytes).0.into_owned().into_bytes().into()
    }

    /// How many bytes of the file a piece of widened text stands for.
    pub(super) fn raw_len(&self, widened: &[u8]) -> usize {
        match self {
            Self::EightBit { .. } => widened.len(),
            // One unit a character, two for one of four bytes.
            Self::Utf16Le | Self::Utf16Be => {
                2 * widened
                    .iter()
                    .map(|byte| usize::from(byte & 0xC0 != 0x80) + usize::from(*byte >= 0xF0))
                    .sum::<usize>()
            }
        }
    }

    /// A line or event of widened text.
    pub(super) fn decode<'a>(&self, piece: &'a [u8]) -> std::borrow::Cow<'a, str> {
        if let Ok(text) = std::str::from_utf8(piece) {
            return text.into();
        }
        let charset = match self {
            Self::EightBit { fallback } => Charset::for_label(fallback.as_bytes()).unwrap_or(WINDOWS_1252),
            Self::Utf16Le | Self::Utf16Be => return String::from_utf8_lossy(piece),
        };
        charset.decode_without_bom_handling(piece).0
    }
}

impl Format {
    /// What a file records, by the beginning of its text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let has_event = ["<Event>", "<Event ", "<Event\t", "<Event\r", "<Event\n", "<Events>", "<Events ", ":Event "]
            .iter()
            .any(|tag| text.contains(tag));
        let is_log = text.contains("http://schemas.microsoft.com/win/2004/08/events/event");
        if has_event && (text.starts_with('<') || is_log) {
            Self::EventXml
        } else if text.lines().any(update_history::is_shaped_like) {
            Self::UpdateHistory
        } else if text.lines().any(reporting_events::is_shaped_like) {
            Self::ReportingEvents
        } else {
            Self::Other
        }
    }

    /// Whether a file of this name is always the log, so that what it holds is never skipped in silence.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        (name.starts_with("reportingevents") && name.ends_with(".log")).then_some(Self::ReportingEvents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, little: bool) -> Vec<u8> {
        text.encode_utf16().flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect()
    }

    #[test]
    fn encodings_are_told_with_and_without_a_mark() {
        let text = "{2A6C1B0E}\t更新\r\n";
        let eight = Encoding::EightBit { fallback: "windows-1252".into() };
        assert_eq!(Encoding::of(&utf16(text, true)), (Encoding::Utf16Le, 0));
        assert_eq!(Encoding::of(&utf16(text, false)), (Encoding::Utf16Be, 0));
        assert_eq!(Encoding::of(&[&[0xFF, 0xFE], utf16(text, true).as_slice()].concat()), (Encoding::Utf16Le, 2));
        assert_eq!(Encoding::of(&[&[0xFE, 0xFF], utf16(text, false).as_slice()].concat()), (Encoding::Utf16Be, 2));
        assert_eq!(Encoding::of(text.as_bytes()), (eight.clone(), 0));
        assert_eq!(Encoding::of(&[&[0xEF, 0xBB, 0xBF], text.as_bytes()].concat()), (eight.clone(), 3));
        assert_eq!(Encoding::of(&[]), (eight, 0));
        let declared = b"<?xml version='1.0' encoding='iso-8859-2'?><Events>";
        assert_eq!(Encoding::of(declared).0, Encoding::EightBit { fallback: "ISO-8859-2".into() });
    }

    #[test]
    fn widened_text_counts_back_to_bytes_of_the_file() {
        let text = "aé更😀\n";
        for little in [true, false] {
            let raw = utf16(text, little);
            let encoding = if little { Encoding::Utf16Le } else { Encoding::Utf16Be };
            let wide = encoding.widen(&raw);
            assert_eq!(wide.as_ref(), text.as_bytes());
            assert_eq!(encoding.raw_len(&wide), raw.len());
        }
        // A lone half of a pair is one unit as well.
        let lone = [0x3D, 0xD8, 0x41, 0x00];
        assert_eq!(Encoding::Utf16Le.raw_len(&Encoding::Utf16Le.widen(&lone)), lone.len());
    }

    #[test]
    fn eight_bit_text_that_is_not_utf8_is_still_read() {
        let encoding = Encoding::of(b"{").0;
        assert_eq!(encoding.decode(b"f\xFCr"), "für");
        assert_eq!(encoding.decode("für".as_bytes()), "für");
    }

    #[test]
    fn formats_are_told_by_content() {
        assert_eq!(Format::of("<?xml version='1.0'?>\n<Events>"), Format::EventXml);
        assert_eq!(Format::of("<Event xmlns='x'><System/></Event>"), Format::EventXml);
        assert_eq!(Format::of("<SetupDiag><EventCount/></SetupDiag>"), Format::Other);
        assert_eq!(Format::of("2026-01-14 04:12:43, Info  CBS  text"), Format::Other);
        assert_eq!(Format::of("{\"src\":\"wua_history\",\"op\":1}"), Format::UpdateHistory);
        assert_eq!(Format::of(""), Format::Other);
        assert_eq!(Format::of_name("ReportingEvents.log"), Some(Format::ReportingEvents));
        assert_eq!(Format::of_name("reportingevents-old.LOG"), Some(Format::ReportingEvents));
        assert_eq!(Format::of_name("CBS.log"), None);
    }
}
