//! SECURITY: text that came from an agent or a controller goes to a terminal only through here, so that no escape
//! sequence, line break or bidirectional override in a title or a computer name can fake what a person reads.

use std::fmt::Write as _;

/// `text` with every control, line-separating and direction-changing character written out as `\u{..}`.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_dangerous(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// JSON text with those characters as `\uXXXX`: the same document, harmless on a terminal. (Serialised JSON holds them
/// only inside strings; line breaks between its tokens stay.)
#[must_use]
pub fn printable_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_dangerous(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_fool_a_terminal_is_written_out() {
        let cases = [
            ("plain text, Überprüfung, 更新", "plain text, Überprüfung, 更新"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("two\nlines\r\tand more", "two\\nlines\\r\\tand more"),
            ("c1 \u{9b}31m", "c1 \\u{9b}31m"),
            ("evil\u{202e}exe.txt", "evil\\u{202e}exe.txt"),
            ("bell\u{7}del\u{7f}", "bell\\u{7}del\\u{7f}"),
        ];
        for (text, shown) in cases {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn json_stays_the_same_document() {
        let value = serde_json::json!({ "title": "a\u{9b}b\u{202e}c\u{1b}d\u{e0041}", "n": [1, 2] });
        let text = serde_json::to_string_pretty(&value).expect("a value serialises");
        let shown = printable_json(&text);
        assert!(shown.chars().all(|c| c == '\n' || !is_dangerous(c)), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("still JSON"), value);
    }
}
