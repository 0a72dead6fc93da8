//! What a title tells of an update: its KB, its kind, and the title itself out of a localised message. Pure.
//!
//! Titles are localised. KB numbers, version numbers and the shapes of driver and Store titles are not, so they are
//! looked at first; English and German words only add to that. A localised feature update whose title shows neither
//! a KB nor a release like `24H2` stays `Unknown`, and a driver with a title of free text is known by its service only.

use std::sync::LazyLock;

use fleetmend_proto::{Kb, UpdateKind, outcome::MAX_TITLE};
use regex::Regex;
use uuid::{Uuid, uuid};

/// KB numbers under which Defender's and its forerunners' definitions have come for years.
const DEFINITION_KBS: [Kb; 3] = [Kb(2_267_602), Kb(915_597), Kb(2_461_484)];
/// The update service that drivers come from.
const DRIVER_SERVICE: Uuid = uuid!("8b24b027-1dee-babb-9a95-3517dfb9c552");

static KB: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:^|[^0-9A-Za-z])[Kk][Bb]([0-9]{6,8})(?:[^0-9A-Za-z]|$)"));
static APP: LazyLock<Regex> = LazyLock::new(|| pattern(r"^9[A-Z0-9]{11}-"));
static DRIVER: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^\S.* - \S.* - [0-9]+(\.[0-9]+){1,3}$|Driver Update \([0-9]+(\.[0-9]+){1,3}\)$"));
static RELEASE: LazyLock<Regex> = LazyLock::new(|| pattern(r"Windows [0-9]+.*\b[0-9]{2}H[12]"));
static FEATURE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(?i:feature update to|funktionsupdate)\b|^Windows 1[0-9], [Vv]ersion "));
static MONTHLY: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[0-9]{4}-[0-9]{2}\b"));
static CODE: LazyLock<Regex> = LazyLock::new(|| pattern(r"0[xX][0-9A-Fa-f]{1,8}"));
/// A colon that ends a part of a sentence: before white space, or full width. `12:30` and `C:\` have none.
static COLON: LazyLock<Regex> = LazyLock::new(|| pattern(r":\s+|：\s*"));

#[allow(clippy::expect_used)] // literal patterns, each used by a test
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a literal pattern compiles")
}

/// The first KB number in a text: `(KB5124010)`, `kb5124010`, `Package_for_KB5124010~31bf`.
#[must_use]
pub fn kb_of(text: &str) -> Option<Kb> {
    KB.captures(text)?.get(1)?.as_str().parse().ok()
}

/// What kind of update it is, as far as title, KB and service tell.
#[must_use]
pub fn kind_of(title: &str, kb: Option<Kb>, service: Option<Uuid>) -> UpdateKind {
    let lower = title.to_lowercase();
    if kb.is_some_and(|kb| DEFINITION_KBS.contains(&kb))
        || ["security intelligence update", "definition update", "definitionsupdate"]
            .iter()
            .any(|it| lower.contains(it))
    {
        UpdateKind::Definition
    } else if APP.is_match(title) {
        UpdateKind::App
    } else if FEATURE.is_match(title) || (kb.is_none() && RELEASE.is_match(title) && !MONTHLY.is_match(title)) {
        UpdateKind::Feature
    } else if kb.is_some() {
        UpdateKind::Quality
    } else if DRIVER.is_match(title) || service == Some(DRIVER_SERVICE) {
        UpdateKind::Driver
    } else {
        UpdateKind::Unknown
    }
}

/// A title fit to keep: no control characters, white space in single blanks, at most [`MAX_TITLE`] bytes.
#[must_use]
pub fn clean_title(text: &str) -> String {
    let blank: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut title = blank.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut = title.floor_char_boundary(MAX_TITLE.min(title.len()));
    title.truncate(cut);
    title
}

/// The update's title out of the message of an install or uninstall record, whatever its language.
///
/// Windows' messages are `<what happened>: <sentence>[ 0x<code>...]: <title>[.]`; some languages end the sentence with
/// a full stop instead of the second colon. With a code in it, the title follows the first colon after the code;
/// without one, the second colon, else the first full stop after the first colon. A message of one sentence has none.
#[must_use]
pub fn title_in(message: &str) -> String {
    let after = |text: &str| COLON.find(text).map(|colon| colon.end());
    let title = if let Some(code) = CODE.find(message) {
        let rest = message.get(code.end()..).unwrap_or_default();
        after(rest).or_else(|| sentence_end(rest)).and_then(|at| rest.get(at..))
    } else if let Some(rest) = after(message).and_then(|at| message.get(at..)) {
        after(rest).or_else(|| sentence_end(rest)).and_then(|at| rest.get(at..)).or(kb_of(rest).map(|_| rest))
    } else {
        kb_of(message).map(|_| message)
    };
    let title = clean_title(title.unwrap_or_default());
    title.strip_suffix(['.', '。']).map(str::to_owned).unwrap_or(title)
}

fn sentence_end(text: &str) -> Option<usize> {
    [". ", "。"].iter().filter_map(|mark| text.find(mark).map(|at| at + mark.len())).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kb_is_found_in_any_surrounding() {
        for (text, kb) in [
            ("2026-01 Cumulative Update (KB5124010)", Some(5_124_010)),
            ("update kb5124010", Some(5_124_010)),
            ("更新プログラムKB5124010を", Some(5_124_010)),
            ("Package_for_KB5034441~31bf3856ad364e35~amd64~~1.0", Some(5_034_441)),
            ("Malicious Software Removal Tool - KB890830 (5.1)", Some(890_830)),
            ("KB12345", None),
            ("KB123456789", None),
            ("XKB5124010", None),
            ("", None),
        ] {
            assert_eq!(kb_of(text), kb.map(Kb), "{text}");
        }
    }

    #[test]
    fn kinds_are_told_apart() {
        let monthly = "2026-01 Cumulative Update for Windows 11, version 24H2 for x64-based Systems (KB5999991)";
        for (title, kind) in [
            (monthly, UpdateKind::Quality),
            ("2026-01 Kumulatives Update für Windows 11 (KB5999991)", UpdateKind::Quality),
            ("Feature update to Windows 11, version 24H2", UpdateKind::Feature),
            ("Windows 11, version 25H2", UpdateKind::Feature),
            ("Funktionsupdate für Windows 11, Version 24H2", UpdateKind::Feature),
            ("Mise à jour vers Windows 11 version 24H2", UpdateKind::Feature),
            ("Contoso - Net - 12.3.4.5", UpdateKind::Driver),
            ("Contoso Corporation Driver Update (1.2.3.4)", UpdateKind::Driver),
            ("9WZDNCRFJ3Q2-Contoso.Weather", UpdateKind::App),
            (
                "Security Intelligence Update for Microsoft Defender Antivirus - KB2267602 (Version 1.1.1.0)",
                UpdateKind::Definition,
            ),
            ("Mise à jour de la veille de sécurité - KB2267602", UpdateKind::Definition),
            ("something", UpdateKind::Unknown),
            ("", UpdateKind::Unknown),
        ] {
            assert_eq!(kind_of(title, kb_of(title), None), kind, "{title}");
        }
        assert_eq!(kind_of("Contoso Extension", None, Some(DRIVER_SERVICE)), UpdateKind::Driver);
        assert_eq!(kind_of(monthly, kb_of(monthly), Some(DRIVER_SERVICE)), UpdateKind::Quality);
    }

    #[test]
    fn titles_come_out_of_messages_of_any_language() {
        for (message, title) in [
            (
                "Installation Failure: Windows failed to install the following update with error 0x80073712: 2026-01 \
                 Update: part 2 (KB5999991).",
                "2026-01 Update: part 2 (KB5999991)",
            ),
            (
                "Installation Successful: Windows successfully installed the following update: Contoso - Net - 1.2.3.4",
                "Contoso - Net - 1.2.3.4",
            ),
            (
                "Installationsfehler: Die Installation des folgenden Updates ist mit Fehler 0x80073712 fehlgeschlagen: \
                 2026-01 Update (KB5999991).",
                "2026-01 Update (KB5999991)",
            ),
            ("Installation erfolgreich: Das folgende Update wurde installiert. Update X", "Update X"),
            ("インストールの失敗: エラー 0x80073712 で失敗しました: 更新 (KB5999991)。", "更新 (KB5999991)"),
            ("インストールの成功：次の更新が完了しました：更新 KB5999991", "更新 KB5999991"),
            (
                "Échec de l'installation : erreur 0x80070643 lors de : Mise à jour (KB5999991).",
                "Mise à jour (KB5999991)",
            ),
            ("Error: Download failed.", ""),
            ("Installation pending.", ""),
            ("", ""),
        ] {
            assert_eq!(title_in(message), title, "{message}");
        }
    }

    #[test]
    fn titles_are_kept_short_and_printable() {
        assert_eq!(clean_title(" a\u{1b}[31m\tb\r\n c "), "a [31m b c");
        let long = clean_title(&"é".repeat(MAX_TITLE));
        assert!(long.len() <= MAX_TITLE && long.len() > MAX_TITLE - 2);
    }
}
