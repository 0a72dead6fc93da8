//! Where reading of a record file stopped, and one pass over what came after. Reads files; changes none.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    record::{Identity, Mark, Problem, Record},
    scan,
    text::{Encoding, Format},
};

/// Most bytes that one pass reads of one file.
pub const PASS_LIMIT: u64 = 32 * 1024 * 1024;
/// Bytes by which a file's format and encoding are told.
const SNIFFED: u64 = 64 * 1024;
/// Fewer bytes tell too little of an encoding.
const ENOUGH: usize = 64;
/// Bytes at the file's beginning, and before the cursor, by which it is recognised.
const HEAD: u64 = 4096;
const TAIL: u64 = 256;
/// Records remembered of a file, so that a rotated or newly exported one brings none of them again.
const REMEMBERED: usize = 512;

/// Where reading of one file stopped, and what was reported from it lately. Opaque to those who store it, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    format: Format,
    encoding: Encoding,
    /// Bytes of the file that are done with.
    offset: u64,
    /// Lines before `offset`.
    line: u64,
    /// `offset` is inside a line or event that was given up as too long.
    #[serde(default)]
    skips: bool,
    head: Print,
    tail: Print,
    /// The latest records that were read, by their own time.
    seen: Vec<(DateTime<Utc>, Identity)>,
    /// Records up to here were read, and forgotten.
    forgotten: Option<DateTime<Utc>>,
    /// While the file is read anew: what is not newer than this was read before.
    anew_after: Option<DateTime<Utc>>,
    /// Attempts reported lately from this file: their late records from other sources are no news.
    pub(super) reported: Vec<Vec<Mark>>,
    /// Records of attempts that are told only in part, held back until other sources had their time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) held: Vec<Record>,
}

/// A stretch of a file by its hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Print {
    from: u64,
    len: u64,
    hash: String,
}

/// What one pass over one file found.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub records: Vec<Record>,
    pub problems: Vec<Problem>,
    /// `None`: the file holds nothing that is read, or cannot be read now.
    pub cursor: Option<Cursor>,
    /// The limit was reached; another pass finds more.
    pub more: bool,
}

impl Cursor {
    pub(super) fn seen(&self) -> impl Iterator<Item = &Identity> {
        self.seen.iter().map(|(_, identity)| identity)
    }

    pub(super) fn remember(&mut self, record: &Record) {
        self.seen.push((record.mark.at, record.identity.clone()));
        if self.seen.len() > REMEMBERED
            && let Some(oldest) = (0..self.seen.len()).min_by_key(|&index| self.seen.get(index).map(|(at, _)| *at))
        {
            let (at, _) = self.seen.swap_remove(oldest);
            self.forgotten = self.forgotten.max(Some(at));
        }
    }

    fn begin(format: Format, encoding: Encoding, bom: usize) -> Self {
        Self {
            format,
            encoding,
            offset: u64::try_from(bom).unwrap_or_default(),
            line: 0,
            skips: false,
            head: Print::default(),
            tail: Print::default(),
            seen: Vec::new(),
            forgotten: None,
            anew_after: None,
            reported: Vec::new(),
            held: Vec::new(),
        }
    }
}

/// Reads what `path` holds after `cursor`. With `whole`, the end of the file ends its last line or event too.
pub(super) fn pass(path: &Path, cursor: Option<&Cursor>, whole: bool, limit: u64) -> Pass {
    read(path, cursor, whole, limit).unwrap_or_else(|error| {
        let reason = format!("cannot be read: {error}");
        Pass { problems: vec![Problem { file: path.to_owned(), line: 0, reason }], ..Pass::default() }
    })
}

fn read(path: &Path, cursor: Option<&Cursor>, whole: bool, limit: u64) -> io::Result<Pass> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let Some(mut cursor) = place(&mut file, path, length, cursor, whole)? else { return Ok(Pass::default()) };

    let mut bytes = stretch(&mut file, cursor.offset, limit.min(length.saturating_sub(cursor.offset)))?;
    let got = u64::try_from(bytes.len()).unwrap_or_default();
    let is_end = cursor.offset + got >= length;
    let is_last = whole && is_end;
    let unit = cursor.encoding.unit();
    bytes.truncate(bytes.len() - bytes.len() % unit);
    let wide = cursor.encoding.widen(&bytes);
    let scanned = scan::scan(cursor.format, &cursor.encoding, &wide, is_last, cursor.skips);
    cursor.skips = scanned.skips;

    let first_line = cursor.line + 1;
    let mut problems: Vec<Problem> = scanned
        .bad
        .iter()
        .map(|(line, reason)| Problem { file: path.to_owned(), line: first_line + line, reason: reason.to_string() })
        .collect();
    if let Some((line, count)) = scanned.unlisted {
        let reason = format!("and {count} more from here on that are not listed");
        problems.push(Problem { file: path.to_owned(), line: first_line + line, reason });
    }

    let used = wide.get(..scanned.used).unwrap_or_default();
    cursor.line += used.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
    let advanced = u64::try_from(cursor.encoding.raw_len(used)).unwrap_or_default();
    if advanced > 0 {
        cursor.offset += advanced;
        cursor.head = print(&mut file, 0, HEAD.min(cursor.offset))?;
        let tail = TAIL.min(cursor.offset);
        cursor.tail = print(&mut file, cursor.offset - tail, tail)?;
    }
    let mut records = scanned.records;
    records.retain(|record| cursor.anew_after.is_none_or(|after| record.mark.at > after));
    if is_end {
        cursor.anew_after = None;
    }
    Ok(Pass { records, problems, more: !is_end && advanced > 0, cursor: Some(cursor) })
}

/// The cursor to go on from: the given one where the file is still the one it was read from, else its beginning.
fn place(
    file: &mut File,
    path: &Path,
    length: u64,
    cursor: Option<&Cursor>,
    whole: bool,
) -> io::Result<Option<Cursor>> {
    if let Some(cursor) = cursor
        && cursor.offset <= length
        && print(file, cursor.head.from, cursor.head.len)? == cursor.head
        && print(file, cursor.tail.from, cursor.tail.len)? == cursor.tail
    {
        return Ok(Some(cursor.clone()));
    }
    let head = stretch(file, 0, SNIFFED.min(length))?;
    if head.len() < ENOUGH && !whole {
        return Ok(None);
    }
    let (encoding, bom) = Encoding::of(&head);
    let text = head.get(bom..head.len() - (head.len() - bom) % encoding.unit()).unwrap_or_default();
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let wide = encoding.widen(text);
    let format = match Format::of(&encoding.decode(&wide)) {
        Format::Other => Format::of_name(&name).unwrap_or(Format::Other),
        found @ (Format::EventXml | Format::ReportingEvents | Format::UpdateHistory) => found,
    };
    if format == Format::Other {
        return Ok(None);
    }
    let fresh = Cursor::begin(format, encoding, bom);
    Ok(Some(match cursor {
        // Rotated, cut or newly exported: read anew, still knowing what was reported.
        Some(old) => Cursor {
            seen: old.seen.clone(),
            forgotten: old.forgotten,
            anew_after: old.forgotten,
            reported: old.reported.clone(),
            held: old.held.clone(),
            ..fresh
        },
        None => fresh,
    }))
}

fn stretch(file: &mut File, from: u64, len: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn print(file: &mut File, from: u64, len: u64) -> io::Result<Print> {
    let digest = Sha256::digest(stretch(file, from, len)?);
    Ok(Print { from, len, hash: hex::encode(digest.get(..16).unwrap_or_default()) })
}
