//! Finds lines and events in a piece of a file, and reads each. Pure; `cursor` cuts the pieces.
//!
//! One thing that cannot be understood never hides another: a bad line ends at its line end, a broken event at the next
//! start of one.

use super::{
    event_xml,
    record::{BadRecord, Record},
    reporting_events,
    text::{Encoding, Format},
    update_history,
};

/// Longest line that is read, in bytes.
pub const MAX_LINE: usize = 64 * 1024;
/// Longest event that is read, in bytes.
pub const MAX_EVENT: usize = 256 * 1024;

/// What is wrong is listed so often in one piece, and then counted: a piece may hold nothing else.
pub const LISTED: usize = 200;

/// What a piece of text held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    pub records: Vec<Record>,
    /// Line within the piece, counted from 0, and what is wrong there.
    pub bad: Vec<(u64, BadRecord)>,
    /// What is wrong and not listed, with the line of the first.
    pub unlisted: Option<(u64, usize)>,
    /// The piece ends inside a line or event that was given up as too long: its rest is no news.
    pub skips: bool,
    /// Bytes of the piece that are done with; what follows is the beginning of something unfinished.
    pub used: usize,
}

/// Reads everything that is whole in `piece`; with `is_last`, what is unfinished at its end too. `skips`: as the piece
/// before it ended.
#[must_use]
pub fn scan(format: Format, encoding: &Encoding, piece: &[u8], is_last: bool, skips: bool) -> Scanned {
    match format {
        Format::ReportingEvents => lines(encoding, piece, is_last, skips, reporting_events::parse),
        Format::UpdateHistory => lines(encoding, piece, is_last, skips, update_history::parse),
        Format::EventXml => events(encoding, piece, is_last, skips),
        Format::Other => Scanned { used: piece.len(), ..Scanned::default() },
    }
}

impl Scanned {
    fn take(&mut self, line: u64, read: Result<Option<Record>, BadRecord>) {
        match read {
            Ok(record) => self.records.extend(record),
            Err(reason) if self.bad.len() < LISTED => self.bad.push((line, reason)),
            Err(_) => self.unlisted.get_or_insert((line, 0)).1 += 1,
        }
    }
}

/// Reads one line.
type Parse = fn(&str) -> Result<Option<Record>, BadRecord>;

fn lines(encoding: &Encoding, piece: &[u8], is_last: bool, skips: bool, parse: Parse) -> Scanned {
    let mut found = Scanned { skips, ..Scanned::default() };
    for (number, line) in (0..).zip(piece.split_inclusive(|byte| *byte == b'\n')) {
        let is_whole = line.ends_with(b"\n");
        if found.skips {
            found.used += line.len();
            found.skips = !is_whole && !is_last;
            continue;
        }
        if !is_whole && !is_last && line.len() <= MAX_LINE {
            break;
        }
        found.used += line.len();
        if line.len() > MAX_LINE {
            found.skips = !is_whole && !is_last;
            found.take(number, Err(BadRecord::LineTooLong { limit: MAX_LINE }));
            continue;
        }
        let text = encoding.decode(line);
        // A log that was preallocated and not closed ends in zeros.
        let text = text.trim_matches(|c: char| c == '\0' || c == '\u{feff}' || c == '\r' || c == '\n');
        if !text.trim().is_empty() {
            found.take(number, parse(text));
        }
    }
    found
}

fn events(encoding: &Encoding, piece: &[u8], is_last: bool, skips: bool) -> Scanned {
    let mut found = Scanned { skips, ..Scanned::default() };
    let (mut line, mut counted) = (0, 0);
    let mut line_at = |at: usize| {
        let between = piece.get(counted..at).unwrap_or_default();
        line += between.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
        counted = at;
        line
    };
    let mut begun: Option<usize> = None;
    let mut from = 0;
    let unfinished = loop {
        let tag = match next_tag(piece, from) {
            Next::Tag(tag) => tag,
            Next::Unfinished(at) => break begun.or(Some(at)),
            Next::None => break begun,
        };
        from = tag.end;
        // Whatever comes first ends what is skipped; its own end tag is all that is left of it.
        let was_skipping = std::mem::take(&mut found.skips);
        let start = match (tag.kind, begun.take()) {
            (TagKind::End, None) if was_skipping => continue,
            (TagKind::Start, earlier) => {
                if let Some(earlier) = earlier {
                    // Reading the remains tells more than that they have no end.
                    let read = read_event(encoding, piece.get(earlier..tag.start).unwrap_or_default());
                    found.take(line_at(earlier), read.and(Err(BadRecord::CutOff)));
                }
                begun = Some(tag.start);
                continue;
            }
            (TagKind::Empty, None) => tag.start,
            (TagKind::Empty, Some(earlier)) | (TagKind::End, Some(earlier)) => earlier,
            (TagKind::End, None) => {
                found.take(line_at(tag.start), Err(BadRecord::NoStart));
                continue;
            }
        };
        let read = read_event(encoding, piece.get(start..tag.end).unwrap_or_default());
        found.take(line_at(start), read);
    };
    let rest = unfinished.and_then(|start| piece.get(start..)).unwrap_or_default();
    if is_last || rest.len() > MAX_EVENT {
        if let Some(start) = unfinished {
            let too_long = rest.len() > MAX_EVENT;
            let reason = if too_long { BadRecord::EventTooLong { limit: MAX_EVENT } } else { BadRecord::CutOff };
            found.take(line_at(start), Err(reason));
            found.skips = !is_last;
        }
        found.used = piece.len();
    } else {
        found.used = piece.len() - rest.len();
    }
    found
}

fn read_event(encoding: &Encoding, bytes: &[u8]) -> Result<Option<Record>, BadRecord> {
    if bytes.len() > MAX_EVENT {
        return Err(BadRecord::EventTooLong { limit: MAX_EVENT });
    }
    event_xml::parse(&encoding.decode(bytes))
}

#[derive(Clone, Copy)]
enum TagKind {
    Start,
    End,
    Empty,
}

/// A tag of an element called `Event`.
struct Tag {
    kind: TagKind,
    start: usize,
    end: usize,
}

/// What comes next in a piece.
enum Next {
    Tag(Tag),
    /// What may become such a tag when more of the file is there.
    Unfinished(usize),
    None,
}

/// Longest name with its namespace prefix that is looked at.
const MAX_NAME: usize = 64;

/// The next tag of an `Event` element at or after `from`, whatever its namespace prefix. `<` is never plain text in XML,
/// so this needs no parser, and markup that is broken elsewhere cannot lead it astray.
fn next_tag(piece: &[u8], mut from: usize) -> Next {
    loop {
        let rest = piece.get(from..).unwrap_or_default();
        let Some(start) = rest.iter().position(|byte| *byte == b'<').map(|at| from + at) else { return Next::None };
        from = start + 1;
        let inside = piece.get(from..).unwrap_or_default();
        let (is_end, name) = match inside.strip_prefix(b"/") {
            Some(name) => (true, name),
            None => (false, inside),
        };
        let is_after = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/' | b'<');
        let Some(length) = name.iter().take(MAX_NAME).position(is_after) else {
            if name.len() < MAX_NAME {
                return Next::Unfinished(start);
            }
            continue;
        };
        if name.get(..length).unwrap_or_default().rsplit(|byte| *byte == b':').next() != Some(b"Event") {
            continue;
        }
        let Some(close) = inside.iter().position(|byte| *byte == b'>') else { return Next::Unfinished(start) };
        let is_empty = close > 0 && inside.get(close - 1) == Some(&b'/');
        let kind = match (is_end, is_empty) {
            (true, _) => TagKind::End,
            (false, true) => TagKind::Empty,
            (false, false) => TagKind::Start,
        };
        return Next::Tag(Tag { kind, start, end: from + close + 1 });
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
