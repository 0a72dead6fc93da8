//! `fleetmend-agent detect` on folders of collected logs, through the binary itself.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use fleetmend_agent::detect::outcomes_in;
use serde_json::Value;

const LINE: &str = "{2A6C1B0E-7F11-4E52-9D8C-0B1A2C3D4E5F}\t2026-01-14 04:12:44:123+0100\t1\t182 \
                    [AGENT_INSTALLING_FAILED]\t101\t{7B0F6A52-1D7E-4A43-9A3B-5C2D0E9F1A01}\t200\t80073712\tx\tFailure\t\
                    Content Install\tÉchec : l'erreur 0x80073712 : Mise à jour (KB5999991).\tcv.1.0";
const EVENT: &str = "<Event xmlns='http://schemas.microsoft.com/win/2004/08/events/event'><System>\
                     <Provider Name='Microsoft-Windows-WindowsUpdateClient'/><EventID>20</EventID>\
                     <TimeCreated SystemTime='2026-01-14T03:12:44.123Z'/><EventRecordID>7</EventRecordID>\
                     <Channel>System</Channel><Computer>PC</Computer></System><EventData>\
                     <Data Name='errorCode'>0x80073712</Data><Data Name='updateTitle'>Mise à jour (KB5999991)</Data>\
                     <Data Name='updateGuid'>{7B0F6A52-1D7E-4A43-9A3B-5C2D0E9F1A01}</Data>\
                     <Data Name='updateRevisionNumber'>200</Data></EventData></Event>";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/detect")
}

fn detect(folder: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetmend-agent"));
    command.args(["detect", "--from"]).arg(folder).args(more).output().unwrap()
}

/// Outcomes, and lines on standard error with the folder's own path taken off.
fn listed(folder: &Path) -> (Vec<Value>, Vec<String>) {
    let output = detect(folder, &["--output", "json"]);
    assert!(output.status.success(), "{output:?}");
    let rows = serde_json::from_slice(&output.stdout).unwrap();
    let prefix = format!("{}/", folder.display());
    let errors = String::from_utf8(output.stderr).unwrap();
    (rows, errors.lines().map(|line| line.replace('\\', "/").replace(&prefix, "")).collect())
}

#[test]
fn a_collected_pc_gives_its_outcomes_and_names_its_bad_lines() {
    let (rows, errors) = listed(&fixtures().join("pc"));
    let expected: Vec<Value> = serde_json::from_slice(&fs::read(fixtures().join("pc.json")).unwrap()).unwrap();
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row, expected);
    }
    let expected = fs::read_to_string(fixtures().join("pc.problems")).unwrap();
    assert_eq!(errors, expected.lines().map(|line| line.replacen("pc/", "", 1)).collect::<Vec<_>>());
}

#[test]
fn a_row_has_the_promised_form() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ReportingEvents.log"), LINE).unwrap();
    let (rows, errors) = listed(folder.path());
    let expected = serde_json::json!([{
        "occurred_at": "2026-01-14T03:12:44.123Z", "operation": "install", "result": "failed",
        "code": "0x80073712", "raw_code": "0x80073712", "kb": "KB5999991",
        "update_id": "7b0f6a52-1d7e-4a43-9a3b-5c2d0e9f1a01", "revision": 200,
        "title": "Mise à jour (KB5999991)", "kind": "quality", "source": "reporting_events",
    }]);
    assert_eq!((Value::Array(rows), errors), (expected, vec![]));
}

/// The text in every encoding that Windows' tools write.
fn encoded(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let le: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    vec![
        ("UTF-8", text.into()),
        ("UTF-8 with mark", [b"\xEF\xBB\xBF", text.as_bytes()].concat()),
        ("UTF-16LE", le.clone()),
        ("UTF-16LE with mark", [b"\xFF\xFE".as_slice(), &le].concat()),
        ("UTF-16BE", be.clone()),
        ("UTF-16BE with mark", [b"\xFE\xFF".as_slice(), &be].concat()),
        ("code page", encoding_rs::WINDOWS_1252.encode(text).0.into_owned()),
    ]
}

#[test]
fn every_encoding_reads_alike() {
    for (text, name) in
        [(format!("{LINE}\r\n\r\nbad\r\n"), "any.txt"), (format!("{EVENT}\r\n\r\n<Event>\r\n"), "any.xml")]
    {
        let mut first: Option<(Vec<Value>, Vec<String>)> = None;
        for (encoding, bytes) in encoded(&text) {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), bytes).unwrap();
            let found = listed(folder.path());
            assert_eq!((found.0.len(), found.1.len()), (1, 1), "{encoding} {name}: {found:?}");
            assert!(found.1[0].starts_with(&format!("{name}:3: ")), "{encoding}: {}", found.1[0]);
            assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "{encoding} {name}");
        }
    }
}

#[test]
fn copies_of_one_record_are_one_outcome() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("again")).unwrap();
    for name in ["system.xml", "again/all.xml"] {
        fs::write(folder.path().join(name), EVENT).unwrap();
    }
    assert_eq!(listed(folder.path()).0.len(), 1);
}

#[test]
fn repeated_failures_of_one_source_stay_apart() {
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..5).map(|n| LINE.replace("44:123", &format!("4{n}:123"))).collect();
    fs::write(folder.path().join("ReportingEvents.log"), lines.join("\r\n")).unwrap();
    assert_eq!(listed(folder.path()).0.len(), 5);
}

#[test]
fn files_of_other_kinds_are_passed_over_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("empty.xml", b"".as_slice()),
        ("ReportingEvents.log", b""),
        ("CBS.log", b"2026-01-14 04:12:43, Info                  CBS    text\r\n"),
        ("config.xml", b"<?xml version='1.0'?><configuration><Event2/></configuration>"),
        ("System.evtx", b"ElfFile\0\0\0\0\0\xFF\xFE<Event"),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    assert_eq!(listed(folder.path()), (vec![], vec![]));
}

#[test]
fn a_log_by_name_is_never_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ReportingEvents.log"), "this is no record\r\n").unwrap();
    let (rows, errors) = listed(folder.path());
    assert_eq!((rows.len(), errors.len()), (0, 1));
    assert!(errors[0].starts_with("ReportingEvents.log:1: "), "{}", errors[0]);
}

#[test]
fn a_folder_that_is_none_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file, folder.path().join("missing")] {
        let output = detect(&path, &["--output", "json"]);
        assert_eq!(output.status.code(), Some(66));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains(path.to_str().unwrap()));
    }
}

#[test]
fn the_table_is_the_default() {
    let output = detect(&fixtures().join("pc"), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("OCCURRED"), "{text}");
    assert!(text.contains("0x800F0922  KB5999991"), "{text}");
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("system.xml"), EVENT).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("dir")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("system.xml"), folder.path().join("file.xml")).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
    assert_eq!(listed(folder.path()), (vec![], vec![]));
}

#[test]
fn a_file_longer_than_one_pass_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let filler = "{2A6C1B0E-7F11-4E52-9D8C-0B1A2C3D4E5F}\t2026-01-14 04:12:44:123+0100\t1\t147 \
                  [AGENT_DETECTION_FINISHED]\t101\t{00000000-0000-0000-0000-000000000000}\t0\t0\tx\tSuccess\tSync\tx\r\n";
    let mut text = filler.repeat(34 * 1024 * 1024 / filler.len());
    text.push_str(LINE);
    fs::write(folder.path().join("ReportingEvents.log"), text).unwrap();
    assert_eq!(listed(folder.path()).0.len(), 1);
}

/// A line of 64 MiB, of zeros as a disk that failed leaves them, in either width.
#[cfg(target_os = "linux")]
#[test]
fn a_line_of_64_mib_costs_little_memory_and_is_told_once() {
    let line = |second: u32| {
        format!(
            "{{2A6C1B0E-7F11-4E52-9D8C-{second:012}}}\t2026-01-14 04:12:{second:02}:123+0100\t1\t182 \
             [AGENT_INSTALLING_FAILED]\t101\t{{7B0F6A52-1D7E-4A43-9A3B-5C2D0E9F1A01}}\t200\t80073712\tx\tFailure\t\
             Content Install\tInstallation Failure: error 0x80073712: Update (KB5999991).\tcv\r\n"
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    for (name, before, after) in [
        ("ReportingEvents.log", line(1).into_bytes(), format!("\r\n{}", line(2)).into_bytes()),
        ("ReportingEvents-wide.log", wide(&line(3)), wide(&format!("\r\n{}", line(4)))),
    ] {
        let mut file = fs::File::create(folder.path().join(name)).unwrap();
        file.write_all(&before).unwrap();
        let end = (before.len() + (64 << 20)) as u64;
        file.set_len(end).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(&after).unwrap();
    }
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|it| it.starts_with("VmHWM:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let before = peak();
    let collected = outcomes_in(folder.path()).unwrap();
    let grown = peak() - before;
    assert_eq!(collected.outcomes.len(), 4);
    let told: Vec<_> = collected.problems.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().all(|it| it.contains(":2: line is longer than 65536 bytes")), "{told:#?}");
    assert!(grown < 200, "{grown} MiB for files of 64 MiB");
}
