//! What a PC's firmware says of itself: the system record (type 1) of the SMBIOS table. Pure; the Windows platform hands
//! in the bytes of `GetSystemFirmwareTable('RSMB')`.
//!
//! Format: DMTF DSP0134, section 7.2; before the records stand eight bytes of Windows' own (`RawSMBIOSData`).

use uuid::Uuid;

const SYSTEM: u8 = 1;
const END: u8 = 127;
const RAW_HEADER: usize = 8;
/// Longest text that is taken over, in characters.
const MAX_TEXT: usize = 128;

/// What the system record holds; texts that firmware makers leave at a placeholder are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemRecord {
    pub manufacturer: String,
    pub model: String,
    pub serial: String,
    pub uuid: Option<Uuid>,
}

/// The system record in `raw`, if it is there.
#[must_use]
pub fn system_record(raw: &[u8]) -> Option<SystemRecord> {
    let mut rest = raw.get(RAW_HEADER..)?;
    loop {
        let kind = *rest.first()?;
        let length = usize::from(*rest.get(1)?);
        let formatted = rest.get(..length).filter(|_| length >= 4)?;
        let texts = rest.get(length..)?;
        // Texts end with two zeros, also where there are none.
        let end = texts.windows(2).position(|pair| pair == [0, 0])?;
        if kind == SYSTEM {
            let texts: Vec<&[u8]> = texts.get(..end)?.split(|byte| *byte == 0).collect();
            return Some(record(formatted, &texts));
        }
        if kind == END {
            return None;
        }
        rest = texts.get(end + 2..)?;
    }
}

fn record(formatted: &[u8], texts: &[&[u8]]) -> SystemRecord {
    let text = |at: usize| {
        let number = usize::from(formatted.get(at).copied().unwrap_or_default());
        number.checked_sub(1).and_then(|index| texts.get(index)).map(|text| meaningful(text)).unwrap_or_default()
    };
    let uuid = formatted.get(8..24).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    SystemRecord {
        manufacturer: text(4),
        model: text(5),
        serial: text(7),
        // All zeros: not set; all ones: not there.
        uuid: uuid.filter(|it| *it != [0; 16] && *it != [0xFF; 16]).map(Uuid::from_bytes_le),
    }
}

/// The text, or nothing for what makers write where they write nothing.
fn meaningful(bytes: &[u8]) -> String {
    const PLACEHOLDERS: [&str; 8] = [
        "to be filled by o.e.m.",
        "default string",
        "system serial number",
        "system manufacturer",
        "system product name",
        "not specified",
        "none",
        "0",
    ];
    let text: String = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    let text = text.trim();
    if PLACEHOLDERS.contains(&text.to_ascii_lowercase().as_str()) { String::new() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(uuid: [u8; 16], texts: &[&str]) -> Vec<u8> {
        let mut raw = vec![0, 3, 2, 0, 0, 0, 0, 0];
        // A BIOS record without texts comes first.
        raw.extend([0, 4, 0, 0, 0, 0]);
        raw.extend([1, 27, 1, 0, 1, 2, 3, 4]);
        raw.extend(uuid);
        raw.extend([6, 0, 0]);
        for text in texts {
            raw.extend(text.as_bytes());
            raw.push(0);
        }
        raw.push(0);
        raw.extend([127, 4, 9, 0, 0, 0]);
        raw
    }

    #[test]
    fn the_system_record_is_found_behind_others() {
        let uuid = [0x03, 0x02, 0x01, 0x00, 0x05, 0x04, 0x07, 0x06, 8, 9, 10, 11, 12, 13, 14, 15];
        let found = system_record(&table(uuid, &["Contoso", "Book 7", "1.0", "5CG1234XYZ"])).expect("a record");
        assert_eq!(found.manufacturer, "Contoso");
        assert_eq!(found.model, "Book 7");
        assert_eq!(found.serial, "5CG1234XYZ");
        // The first three fields are little-endian.
        assert_eq!(found.uuid.map(|it| it.to_string()).as_deref(), Some("00010203-0405-0607-0809-0a0b0c0d0e0f"));
    }

    #[test]
    fn placeholders_are_nothing() {
        let found = system_record(&table([0xFF; 16], &["To Be Filled By O.E.M.", "Default string", "1", "0"]));
        assert_eq!(found, Some(SystemRecord::default()));
    }

    #[test]
    fn a_table_cut_anywhere_gives_an_answer() {
        let whole = table([7; 16], &["Contoso", "Book 7", "1.0", "5CG1234XYZ"]);
        for end in 0..whole.len() {
            let cut = system_record(&whole[..end]);
            assert!(cut.is_none() || cut == system_record(&whole), "{end} bytes");
        }
    }
}
