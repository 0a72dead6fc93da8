//! `ReportingEvents.log`: UTF-16LE, CRLF, one record a line, thirteen columns between tabs, local time with offset.

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use fleetmend_proto::HResult;
use uuid::Uuid;

use crate::pc::{
    change::Attempt,
    profile::{Language, Profile},
};

pub const BYTE_ORDER_MARK: [u8; 2] = [0xFF, 0xFE];

/// The scan before the attempt and the attempt itself, where Windows Update took part.
pub fn lines(profile: &Profile, number: u64, attempt: &Attempt) -> Vec<u8> {
    if !attempt.by_update_client {
        return Vec::new();
    }
    // The reporter notes a few seconds after the event log does.
    let late = TimeDelta::milliseconds(
        i64::try_from(profile.dice.between(&format!("reporter {number}"), 900, 6_000)).unwrap_or(900),
    );
    let scan = Columns {
        id: profile.dice.uuid(&format!("scan record {number}")),
        at: attempt.at - TimeDelta::minutes(1),
        event: "147 [AGENT_DETECTION_FINISHED]",
        update_id: Uuid::nil(),
        revision: 0,
        code: HResult::OK,
        caller: &attempt.client,
        result: "Success",
        category: "Software Synchronization",
        message: "Windows Update Client successfully detected 1 updates.".to_owned(),
        vector: "",
    };
    let failed = attempt.reported.is_failure();
    let install = Columns {
        id: profile.dice.uuid(&format!("install record {number}")),
        at: attempt.at + late,
        event: if failed { "182 [AGENT_INSTALLING_FAILED]" } else { "183 [AGENT_INSTALLING_SUCCEEDED]" },
        update_id: attempt.update.update_id.unwrap_or_default(),
        revision: attempt.update.revision,
        code: attempt.reported,
        caller: &attempt.client,
        result: if failed { "Failure" } else { "Success" },
        category: "Content Install",
        message: message(profile.place.language, attempt),
        vector: "sImUlAtEd0123456.1.0",
    };
    let text = scan.line(profile) + &install.line(profile);
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

struct Columns<'a> {
    id: Uuid,
    at: DateTime<Utc>,
    event: &'a str,
    update_id: Uuid,
    revision: i32,
    code: HResult,
    caller: &'a str,
    result: &'a str,
    category: &'a str,
    message: String,
    vector: &'a str,
}

impl Columns<'_> {
    fn line(&self, profile: &Profile) -> String {
        let id = braced(self.id);
        let update_id = braced(self.update_id);
        let at = local(self.at, profile.place.offset_minutes);
        let code = if self.code == HResult::OK { "0".to_owned() } else { format!("{:x}", self.code.0) };
        let Self { event, revision, caller, result, category, message, vector, .. } = self;
        let mut line = format!(
            "{id}\t{at}\t1\t{event}\t101\t{update_id}\t{revision}\t{code}\t{caller}\t{result}\t{category}\t{message}"
        );
        if !vector.is_empty() {
            line.push('\t');
            line.push_str(vector);
        }
        line + "\r\n"
    }
}

fn braced(id: Uuid) -> String {
    id.braced().to_string().to_uppercase()
}

/// `2026-01-14 04:12:44:123+0100`
fn local(at: DateTime<Utc>, offset_minutes: i32) -> String {
    let utc = FixedOffset::east_opt(0);
    let offset = FixedOffset::east_opt(offset_minutes * 60).or(utc);
    offset.map_or_else(String::new, |offset| at.with_timezone(&offset).format("%Y-%m-%d %H:%M:%S:%3f%z").to_string())
}

fn message(language: Language, attempt: &Attempt) -> String {
    let title = &attempt.update.title;
    let code = format!("0x{:08x}", attempt.reported.0);
    match (language, attempt.reported.is_failure(), attempt.reboot_owed) {
        (Language::English, true, _) => {
            format!("Installation Failure: Windows failed to install the following update with error {code}: {title}.")
        }
        (Language::English, false, true) => {
            format!("Installation successful and restart required for the following update: {title}")
        }
        (Language::English, false, false) => {
            format!("Installation Successful: Windows successfully installed the following update: {title}")
        }
        (Language::German, true, _) => {
            format!(
                "Installationsfehler: Die Installation des folgenden Updates ist mit Fehler {code} fehlgeschlagen: {title}."
            )
        }
        (Language::German, false, _) => {
            format!("Installation erfolgreich: Das folgende Update wurde installiert. {title}")
        }
        (Language::French, true, _) => {
            format!(
                "Échec de l’installation : Windows n’a pas pu installer la mise à jour suivante avec l’erreur {code} : {title}."
            )
        }
        (Language::French, false, _) => {
            format!("Installation réussie : Windows a installé la mise à jour suivante : {title}")
        }
        (Language::Japanese, true, _) => {
            format!("インストールの失敗: エラー {code} で次の更新プログラムのインストールに失敗しました: {title}。")
        }
        (Language::Japanese, false, _) => {
            format!("インストールの成功: 次の更新プログラムが正しくインストールされました: {title}")
        }
    }
}
