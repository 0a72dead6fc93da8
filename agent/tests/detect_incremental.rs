//! The detector reading on from its cursors: files that grow in pieces, are cut, rotated or exported anew, and sources
//! that lag behind each other.

#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_agent::{
    detect::{Cursor, Detector, Found},
    platform::RecordFile,
};
use fleetmend_proto::{HResult, Source};
use proptest::prelude::*;

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_768_360_000, 0).unwrap() + TimeDelta::seconds(seconds)
}

/// A failed install in ReportingEvents.log.
fn line(seconds: i64, code: &str) -> String {
    format!(
        "{{2A6C1B0E-7F11-4E52-9D8C-{seconds:012X}}}\t{}:000+0000\t1\t182 [AGENT_INSTALLING_FAILED]\t101\t\
         {{7B0F6A52-1D7E-4A43-9A3B-5C2D0E9F1A01}}\t200\t{code}\tx\tFailure\tContent Install\tÉchec : erreur 0x{code} : \
         更新 (KB5999991).\tcv.1.0\r\n",
        time(seconds).format("%Y-%m-%d %H:%M:%S")
    )
}

fn event(record: u32, seconds: i64, code: &str) -> String {
    format!(
        "<Event xmlns='http://schemas.microsoft.com/win/2004/08/events/event'><System>\
         <Provider Name='Microsoft-Windows-WindowsUpdateClient'/><EventID>20</EventID>\
         <TimeCreated SystemTime='{}'/><EventRecordID>{record}</EventRecordID><Channel>System</Channel>\
         <Computer>PC</Computer></System><EventData><Data Name='errorCode'>0x{code}</Data>\
         <Data Name='updateTitle'>更新 (KB5999991)</Data>\
         <Data Name='updateGuid'>{{7B0F6A52-1D7E-4A43-9A3B-5C2D0E9F1A01}}</Data>\
         <Data Name='updateRevisionNumber'>200</Data></EventData></Event>\r\n",
        time(seconds).to_rfc3339()
    )
}

fn setup(record: u32, seconds: i64, code: &str) -> String {
    format!(
        "<Event><System><Provider Name='Microsoft-Windows-Servicing'/><EventID>3</EventID>\
         <TimeCreated SystemTime='{}'/><EventRecordID>{record}</EventRecordID><Channel>Setup</Channel>\
         <Computer>PC</Computer></System><UserData><CbsPackageChangeState>\
         <PackageIdentifier>KB5999991</PackageIdentifier><IntendedPackageState>5112</IntendedPackageState>\
         <ErrorCode>0x{code}</ErrorCode></CbsPackageChangeState></UserData></Event>\r\n",
        time(seconds).to_rfc3339()
    )
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A PC's record files and a detector that is made anew from stored cursors for each pass, as after a restart.
struct Pc {
    folder: tempfile::TempDir,
    stored: Vec<(PathBuf, String)>,
}

impl Pc {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), stored: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(bytes.as_ref()).unwrap();
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&mut self) -> Found {
        self.read_at(None)
    }

    /// Reads as the running agent does, at so many seconds.
    fn settling(&mut self, seconds: i64) -> Found {
        let found = self.read_at(Some(time(seconds)));
        assert_eq!(found.problems, vec![]);
        found
    }

    fn read_at(&mut self, now: Option<DateTime<Utc>>) -> Found {
        let mut paths: Vec<PathBuf> = fs::read_dir(self.folder.path()).unwrap().map(|it| it.unwrap().path()).collect();
        paths.sort();
        let files: Vec<RecordFile> = paths.into_iter().map(|path| RecordFile { path }).collect();
        let stored =
            self.stored.iter().map(|(path, json)| (path.clone(), serde_json::from_str::<Cursor>(json).unwrap()));
        let mut detector = Detector::new(stored.collect::<Vec<_>>());
        let found = detector.read(&files, now);
        for (path, cursor) in &found.cursors {
            self.stored.retain(|(it, _)| it != path);
            self.stored.push((path.clone(), serde_json::to_string(cursor).unwrap()));
        }
        found
    }

    /// Seconds at which what is new occurred.
    fn news(&mut self) -> Vec<i64> {
        let found = self.read();
        assert_eq!(found.problems, vec![]);
        found.outcomes.iter().map(|it| (it.occurred_at - time(0)).num_seconds()).collect()
    }
}

#[test]
fn only_what_is_new_is_found() {
    let mut pc = Pc::new();
    pc.append("ReportingEvents.log", line(0, "80073712"));
    assert_eq!(pc.news(), [0]);
    assert_eq!(pc.read(), Found::default());
    pc.append("ReportingEvents.log", line(60, "80073712") + &line(120, "80073712"));
    assert_eq!(pc.news(), [60, 120]);
    assert!(pc.news().is_empty());
}

#[test]
fn a_half_written_line_is_left_for_next_time() {
    let whole = utf16(&(line(0, "80073712") + &line(60, "80073712")));
    for cut in (1..whole.len()).step_by(7) {
        let mut pc = Pc::new();
        pc.append("ReportingEvents.log", [0xFF, 0xFE]);
        pc.append("ReportingEvents.log", &whole[..cut]);
        let mut news = pc.news();
        pc.append("ReportingEvents.log", &whole[cut..]);
        news.extend(pc.news());
        assert_eq!(news, [0, 60], "cut at {cut}");
    }
}

#[test]
fn a_half_written_event_is_left_for_next_time() {
    let whole = event(1, 0, "80073712") + &event(2, 60, "80073712");
    for cut in (1..whole.len()).step_by(7) {
        let mut pc = Pc::new();
        pc.append("system.xml", &whole.as_bytes()[..cut]);
        let mut news = pc.news();
        pc.append("system.xml", &whole.as_bytes()[cut..]);
        news.extend(pc.news());
        assert_eq!(news, [0, 60], "cut at {cut}");
    }
}

#[test]
fn a_bad_line_is_told_once_and_by_its_number_in_the_file() {
    let mut pc = Pc::new();
    pc.append("ReportingEvents.log", line(0, "80073712"));
    pc.read();
    pc.append("ReportingEvents.log", line(60, "80073712") + "torn\r\n" + &line(120, "80073712"));
    let found = pc.read();
    assert_eq!((found.outcomes.len(), found.problems.len()), (2, 1));
    assert_eq!(found.problems[0].line, 3);
    assert_eq!(pc.read(), Found::default());
}

#[test]
fn a_log_that_was_cut_is_read_anew() {
    let mut pc = Pc::new();
    pc.append("ReportingEvents.log", line(0, "80073712") + &line(60, "80073712"));
    assert_eq!(pc.news(), [0, 60]);
    pc.write("ReportingEvents.log", line(120, "80073712"));
    assert_eq!(pc.news(), [120]);
    // As long as before, but another content.
    pc.write("ReportingEvents.log", line(180, "80073712"));
    assert_eq!(pc.news(), [180]);
}

#[test]
fn a_log_that_was_renamed_and_comes_back_brings_no_news() {
    let mut pc = Pc::new();
    pc.append("ReportingEvents.log", line(0, "80073712"));
    assert_eq!(pc.news(), [0]);
    pc.append("ReportingEvents.log", line(60, "80073712"));
    fs::rename(pc.path("ReportingEvents.log"), pc.path("ReportingEvents.old.log")).unwrap();
    pc.write("ReportingEvents.log", line(120, "80073712"));
    assert_eq!(pc.news(), [60, 120]);
    fs::rename(pc.path("ReportingEvents.old.log"), pc.path("ReportingEvents.log")).unwrap();
    assert!(pc.news().is_empty());
}

#[test]
fn an_export_made_anew_brings_only_its_new_events() {
    let mut pc = Pc::new();
    pc.write("system.xml", format!("<Events>{}{}</Events>", event(1, 0, "80073712"), event(2, 60, "80073712")));
    assert_eq!(pc.news(), [0, 60]);
    // The oldest has rolled over.
    pc.write("system.xml", format!("<Events>{}{}</Events>", event(2, 60, "80073712"), event(3, 120, "80073712")));
    assert_eq!(pc.news(), [120]);
    pc.write("system.xml", format!("<Events>{}</Events>", event(1, 500, "80073712")));
    assert_eq!(pc.news(), [500], "a cleared log counts from one again");
}

#[test]
fn a_long_export_made_anew_brings_only_its_new_events() {
    let export = |records: Vec<u32>| -> String {
        records.into_iter().map(|record| event(record, i64::from(record) * 60, "80073712")).collect()
    };
    let mut pc = Pc::new();
    // Newest first, as exports may be.
    pc.write("system.xml", export((0..1500).rev().collect()));
    assert_eq!(pc.news().len(), 1500);
    pc.write("system.xml", export((1..=1500).rev().collect()));
    assert_eq!(pc.news(), [90_000]);
    pc.write("system.xml", export((2..=1501).collect()));
    assert_eq!(pc.news(), [90_060]);
}

#[test]
fn a_source_that_lags_is_no_news() {
    let mut pc = Pc::new();
    pc.append("system.xml", event(1, 0, "80073712"));
    assert_eq!(pc.news(), [0]);
    pc.append("ReportingEvents.log", line(2, "80073712"));
    assert!(pc.news().is_empty());
    pc.append("setup.xml", setup(9, -4, "80073712"));
    assert!(pc.news().is_empty());
}

#[test]
fn a_second_attempt_is_news_however_soon() {
    let mut pc = Pc::new();
    pc.append("system.xml", event(1, 0, "80073712"));
    assert_eq!(pc.news(), [0]);
    pc.append("ReportingEvents.log", line(1, "80073712"));
    assert!(pc.news().is_empty());
    pc.append("system.xml", event(2, 30, "80073712"));
    assert_eq!(pc.news(), [30]);
    pc.append("ReportingEvents.log", line(31, "80073712"));
    assert!(pc.news().is_empty());
    pc.append("ReportingEvents.log", line(50, "80073712"));
    assert_eq!(pc.news(), [50], "both reported attempts have theirs already");
}

#[test]
fn sources_read_together_become_one_with_the_inner_code() {
    let mut pc = Pc::new();
    pc.append("setup.xml", setup(9, -4, "80073712"));
    pc.append("system.xml", event(1, 0, "8024200b"));
    pc.append("ReportingEvents.log", line(1, "8024200b"));
    let found = pc.read();
    assert_eq!(found.outcomes.len(), 1);
    let outcome = &found.outcomes[0];
    assert_eq!((outcome.code, outcome.raw_code), (HResult(0x8007_3712), HResult(0x8024_200B)));
    assert_eq!(outcome.source, Source::EventLog);
}

#[test]
fn a_package_that_failed_waits_for_the_update_it_belongs_to() {
    let mut pc = Pc::new();
    pc.append("setup.xml", setup(9, 0, "80073712"));
    let found = pc.settling(3);
    assert_eq!((found.outcomes.len(), found.held), (0, 1));
    pc.append("system.xml", event(1, 4, "80073712"));
    let found = pc.settling(6);
    assert_eq!((found.outcomes.len(), found.held), (1, 0));
    let update = &found.outcomes[0].update;
    assert_eq!((update.revision, update.title.as_str()), (200, "更新 (KB5999991)"));
    assert!(update.update_id.is_some());
    assert_eq!(pc.settling(500), Found::default());
}

#[test]
fn a_wrapper_waits_for_the_code_inside() {
    let mut pc = Pc::new();
    pc.append("system.xml", event(1, 0, "8024200b"));
    assert_eq!(pc.settling(3).held, 1);
    assert_eq!(pc.settling(30).held, 1, "it is held from pass to pass, whatever happens to the agent between them");
    pc.append("setup.xml", setup(9, -4, "80073712"));
    let found = pc.settling(31);
    assert_eq!(found.outcomes.len(), 1);
    assert_eq!((found.outcomes[0].code, found.outcomes[0].raw_code), (HResult(0x8007_3712), HResult(0x8024_200B)));
}

#[test]
fn what_is_told_in_part_is_told_when_it_has_settled() {
    let mut pc = Pc::new();
    pc.append("setup.xml", setup(9, 0, "80073712"));
    assert_eq!(pc.settling(119).held, 1);
    let found = pc.settling(121);
    assert_eq!((found.outcomes.len(), found.held), (1, 0));
    assert_eq!(found.outcomes[0].source, Source::SetupLog);
    // A log of long ago, a wrong clock and a reader that cannot wait: at once.
    pc.append("setup.xml", setup(10, 200, "80073712"));
    assert_eq!(pc.settling(9_000).outcomes.len(), 1);
    pc.append("setup.xml", setup(11, 90_000, "80073712"));
    assert_eq!(pc.settling(9_000).outcomes.len(), 1);
    pc.append("setup.xml", setup(12, 100_000, "80073712"));
    assert_eq!(pc.settling(100_001).held, 1);
    assert_eq!(pc.news(), [100_000]);
}

#[test]
fn what_says_all_is_told_at_once() {
    let mut pc = Pc::new();
    pc.append("system.xml", event(1, 0, "80073712"));
    assert_eq!(pc.settling(0).outcomes.len(), 1);
}

#[test]
fn an_attempt_that_is_held_survives_the_rotation_of_its_log() {
    let mut pc = Pc::new();
    pc.append("setup.xml", setup(9, 0, "80073712"));
    assert_eq!(pc.settling(3).held, 1);
    pc.write("setup.xml", setup(30, 20, "800f0922"));
    assert_eq!(pc.settling(25).held, 2);
    assert_eq!(pc.settling(300).outcomes.len(), 2);
}

#[test]
fn a_missing_file_is_a_problem_and_costs_nothing_else() {
    let mut pc = Pc::new();
    pc.append("system.xml", event(1, 0, "80073712"));
    let files = [RecordFile { path: pc.path("missing.log") }, RecordFile { path: pc.path("system.xml") }];
    let found = Detector::default().read(&files, None);
    assert_eq!((found.outcomes.len(), found.problems.len()), (1, 1));
    assert!(found.problems[0].to_string().contains("missing.log: cannot be read"));
    assert_eq!(pc.news(), [0]);
}

#[test]
fn cursors_stay_small() {
    let mut pc = Pc::new();
    let lines: String = (0..3000).map(|n| line(n, "80073712")).collect();
    pc.append("ReportingEvents.log", lines);
    assert_eq!(pc.news().len(), 3000);
    assert!(pc.stored.iter().all(|(_, json)| json.len() < 128 * 1024), "{}", pc.stored[0].1.len());
}

fn written(path: &Path, bytes: &[u8]) -> RecordFile {
    fs::write(path, bytes).unwrap();
    RecordFile { path: path.to_owned() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_of_any_size_give_what_the_whole_gives(sizes in prop::collection::vec(1_usize..900, 1..12), wide: bool, xml: bool) {
        let text: String = (0..6).map(|n| if xml { event(n, n.into(), "80073712") } else { line(n.into(), "80073712") }).collect();
        let bytes = if wide { [vec![0xFF, 0xFE], utf16(&text)].concat() } else { text.into_bytes() };
        let name = if xml { "system.xml" } else { "ReportingEvents.log" };
        let mut pc = Pc::new();
        let mut news = Vec::new();
        let mut rest = bytes.as_slice();
        for size in sizes {
            let (piece, after) = rest.split_at(size.min(rest.len()));
            pc.append(name, piece);
            news.extend(pc.news());
            rest = after;
        }
        pc.append(name, rest);
        news.extend(pc.news());
        prop_assert_eq!(news, (0..6).collect::<Vec<_>>());
    }

    #[test]
    fn arbitrary_files_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), head in 0_usize..4) {
        let folder = tempfile::tempdir().unwrap();
        let head = [b"".as_slice(), b"<Event>", b"\xFF\xFE<\0E\0v\0e\0n\0t\0>\0", b"{2A6C1B0E-7F11-4E52-9D8C-0B1A2C3D4E5F}\t"][head];
        let bytes = [head, &bytes].concat();
        let files = ["ReportingEvents.log", "a.xml"].map(|name| written(&folder.path().join(name), &bytes));
        let mut detector = Detector::default();
        detector.read(&files, None);
        detector.read(&files, None);
        let collected = fleetmend_agent::detect::outcomes_in(folder.path()).unwrap();
        prop_assert!(collected.outcomes.is_empty());
    }
}
