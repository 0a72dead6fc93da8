//! The primitives of `platform::windows` tried on a Windows, or on Wine: services really stop and start, a folder is really
//! set aside. Run by `tests/windows/run` in a system of its own: these tests change it.
#![cfg(windows)]
#![allow(clippy::expect_used)]

use std::{fs, path::Path, process::Command, time::Duration};

use fleetmend_agent::platform::{
    Folder, Platform, PlatformError, Program, Run, ServiceState, StartType,
    windows::{WindowsPc, folder},
};
use fleetmend_proto::OrderId;
use uuid::Uuid;

const DATA_STORE: &str = r"C:\windows\SoftwareDistribution\DataStore";
const LIMIT: Duration = Duration::from_secs(60);

fn pc(name: &str) -> WindowsPc {
    let data = Path::new(r"C:\ProgramData\Fleetmend-tests").join(name);
    folder::prepare(&data).expect("a data folder");
    WindowsPc::new(&data, Some(data.clone()))
}

fn run() -> Run {
    Run { order: OrderId(Uuid::from_u128(7)), step: 1 }
}

/// What `sc.exe` says: another eye than the one under test.
fn sc_says(service: &str, word: &str) -> bool {
    let output = Command::new(r"C:\windows\system32\sc.exe").args(["query", service]).output().expect("sc.exe");
    String::from_utf8_lossy(&output.stdout).contains(word)
}

#[tokio::test]
async fn services_stop_and_start() {
    let pc = pc("services");
    for name in ["BITS", "wuauserv"] {
        let before = pc.service(name).await.expect("asked").expect("the service is there");
        if before.start_type == StartType::Disabled {
            pc.set_start_type(run(), name, StartType::Manual).await.expect("enabled");
        }
        pc.start_service(run(), name).await.expect("started");
        assert_eq!(pc.service(name).await.expect("asked").map(|it| it.state), Some(ServiceState::Running), "{name}");
        assert!(sc_says(name, "RUNNING"), "{name}");
        pc.stop_service(run(), name, LIMIT).await.expect("stopped");
        assert_eq!(pc.service(name).await.expect("asked").map(|it| it.state), Some(ServiceState::Stopped), "{name}");
        assert!(sc_says(name, "STOPPED"), "{name}");
        // Stopping what is stopped is done.
        pc.stop_service(run(), name, LIMIT).await.expect("already stopped");
    }
}

#[tokio::test]
async fn start_types_are_written_and_read_back() {
    let pc = pc("start-types");
    for start in [StartType::Disabled, StartType::Automatic, StartType::Manual] {
        pc.set_start_type(run(), "EventLog", start).await.expect("set");
        assert_eq!(pc.service("EventLog").await.expect("asked").map(|it| it.start_type), Some(start));
    }
    assert_eq!(pc.service("NoSuchService").await.expect("asked"), None);
    let missing = pc.start_service(run(), "NoSuchService").await;
    assert!(matches!(missing, Err(PlatformError::Unavailable { .. })), "{missing:?}");
}

#[tokio::test]
async fn a_folder_is_set_aside_and_put_back() {
    let pc = pc("folders");
    let store = Folder::DataStore;
    let _ = fs::remove_dir_all(r"C:\windows\SoftwareDistribution");
    assert!(!pc.folder_exists(&store).await.expect("asked"));
    fs::create_dir_all(DATA_STORE).expect("a folder");
    fs::write(format!(r"{DATA_STORE}\DataStore.edb"), "old").expect("a file");

    pc.set_aside(run(), &store, "run-1").await.expect("set aside");
    assert!(!pc.folder_exists(&store).await.expect("asked"));
    assert!(pc.aside_exists(&store, "run-1").await.expect("asked"));
    let kept = fs::read_to_string(format!(r"{DATA_STORE}.run-1\DataStore.edb")).expect("the old file");
    assert_eq!(kept, "old");

    // Never overwritten.
    fs::create_dir_all(DATA_STORE).expect("a folder built anew");
    fs::write(format!(r"{DATA_STORE}\DataStore.edb"), "new").expect("a file");
    assert!(pc.set_aside(run(), &store, "run-1").await.is_err());

    // What stands in the way is kept too.
    pc.put_back(run(), &store, "run-1").await.expect("put back");
    assert_eq!(fs::read_to_string(format!(r"{DATA_STORE}\DataStore.edb")).expect("the old file"), "old");
    assert_eq!(fs::read_to_string(format!(r"{DATA_STORE}.run-1.new\DataStore.edb")).expect("the new file"), "new");
    assert!(!pc.aside_exists(&store, "run-1").await.expect("asked"));
    assert!(pc.put_back(run(), &store, "no-such").await.is_err());
}

#[tokio::test]
async fn a_file_in_the_folders_place_is_refused() {
    let pc = pc("file");
    let path = r"C:\windows\SoftwareDistribution\Download";
    fs::create_dir_all(r"C:\windows\SoftwareDistribution").expect("the parent");
    let _ = fs::remove_dir_all(path);
    fs::write(path, "no folder").expect("a file");
    let refused = pc.set_aside(run(), &Folder::Download, "run-2").await;
    assert!(matches!(refused, Err(PlatformError::Failed { .. })), "{refused:?}");
    fs::remove_file(path).expect("still there");
}

#[tokio::test]
async fn registry_values_are_written_read_and_deleted() {
    let pc = pc("registry");
    let key = r"SOFTWARE\Fleetmend-tests";
    assert_eq!(pc.registry_string(key, "Pause").await.expect("asked"), None);
    pc.set_registry_string(run(), key, "Pause", Some("2026-01-13T08:00:00Z")).await.expect("written");
    let read = pc.registry_string(key, "Pause").await.expect("asked");
    assert_eq!(read.as_deref(), Some("2026-01-13T08:00:00Z"));
    let shown = Command::new(r"C:\windows\system32\reg.exe").args(["query", &format!("HKLM\\{key}")]).output();
    assert!(String::from_utf8_lossy(&shown.expect("reg.exe").stdout).contains("2026-01-13T08:00:00Z"));
    pc.set_registry_string(run(), key, "Pause", None).await.expect("deleted");
    pc.set_registry_string(run(), key, "Pause", None).await.expect("deleted before");
    assert_eq!(pc.registry_string(key, "Pause").await.expect("asked"), None);
    // A number is given as digits.
    let args = ["add", r"HKLM\SOFTWARE\Fleetmend-tests", "/v", "Number", "/t", "REG_DWORD", "/d", "7", "/f"];
    assert!(Command::new(r"C:\windows\system32\reg.exe").args(args).output().expect("reg.exe").status.success());
    assert_eq!(pc.registry_string(key, "Number").await.expect("asked").as_deref(), Some("7"));
}

#[tokio::test]
async fn a_restart_flag_is_seen() {
    let pc = pc("restart");
    assert_eq!(pc.pending_reboot().await.expect("asked"), Vec::<String>::new());
    let key = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending";
    let reg = |args: &[&str]| Command::new(r"C:\windows\system32\reg.exe").args(args).output().expect("reg.exe");
    assert!(reg(&["add", key, "/f"]).status.success());
    assert_eq!(pc.pending_reboot().await.expect("asked"), ["component servicing: RebootPending"]);
    assert!(reg(&["delete", key, "/f"]).status.success());
}

#[tokio::test]
async fn a_child_runs_and_a_missing_tool_is_unavailable() {
    let pc = pc("children");
    let args = ["/s".to_owned(), "no-such-library.dll".to_owned()];
    let exit = pc.run(run(), Program::RegSvr32, &args, LIMIT).await.expect("it ran");
    assert_ne!(exit.code, 0, "a library that is not there cannot be registered");
    let args = ["/s".to_owned(), "oleaut32.dll".to_owned()];
    assert_eq!(pc.run(run(), Program::RegSvr32, &args, LIMIT).await.expect("it ran").code, 0);
    let absent = pc.run(run(), Program::SetupMedia, &[], LIMIT).await;
    assert!(matches!(absent, Err(PlatformError::Unavailable { .. })), "{absent:?}");
}

#[tokio::test]
async fn this_pc_says_what_it_is() {
    let pc = pc("condition");
    let machine = pc.machine().await.expect("a machine");
    assert!(!machine.computer_name.is_empty());
    pc.record_files().await.expect("records or their absence");
    let condition = pc.condition().await.expect("a condition");
    assert_eq!(condition.computer_name, machine.computer_name);
    assert!(condition.os_build > 0);
    assert!(condition.system_free_bytes > 0);
    let boot = pc.boot_id().await.expect("an id");
    assert_eq!(pc.boot_id().await.expect("an id"), boot, "one start, one id");
}

#[tokio::test]
async fn the_update_client_answers_or_says_why_not() {
    let pc = pc("client");
    // No update service is here: an answer in time is what counts, and that nothing crashes.
    for answer in [pc.is_update_client_busy().await.map(|_| ()), pc.offers(run()).await.map(|_| ())] {
        if let Err(error) = answer {
            assert!(!matches!(error, PlatformError::TimedOut { .. }), "{error}");
        }
    }
}

#[test]
fn a_folder_of_others_is_not_taken() {
    for path in [r"C:\", r"C:\windows"] {
        assert!(folder::prepare(Path::new(path)).is_err(), "{path}");
    }
}
