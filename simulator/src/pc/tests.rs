//! The model against direct calls of its primitives, and its records against the real detection.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleetmend_agent::{
    detect,
    platform::{Folder, Platform, PlatformError, Program, Run, StartType},
};
use fleetmend_domain::catalogue::Catalogue;
use fleetmend_proto::{HResult, OrderId, OutcomeResult, UpdateKind, condition::Architecture};
use uuid::Uuid;

use super::{
    AgentView, Options, Pc,
    causes::{self, Cause},
    profile::Profile,
    records,
    state::State,
};
use crate::ScaledClock;

const LIMIT: Duration = Duration::from_secs(4 * 3600);

const FAST: f64 = 200_000.0;

fn clock(speed: f64) -> Arc<ScaledClock> {
    Arc::new(ScaledClock::starting_now(speed).expect("a usable speed"))
}

fn run(step: u32) -> Run {
    Run { order: OrderId(Uuid::from_u128(7)), step }
}

fn args(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// A PC whose first update met a cause and failed with it.
struct Trouble {
    dir: tempfile::TempDir,
    pc: Arc<Pc>,
    agent: Arc<AgentView>,
    clock: Arc<ScaledClock>,
}

impl Trouble {
    fn new(cause: Cause) -> Self {
        Self::at_speed(cause, FAST)
    }

    fn at_speed(cause: Cause, speed: f64) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let packages = dir.path().join("packages");
        super::write_packages(&packages).expect("packages");
        let options = Options { fsync: true, packages: Some(packages) };
        let profile = Profile::new(1, 3);
        let clock = clock(speed);
        let episode = profile.episode_of(0, cause, cause.plain_code());
        let pc = Pc::open(&dir.path().join("pc"), profile, clock.clone(), options).expect("a new PC");
        pc.arrive(&episode).expect("arrives");
        let agent = pc.start_agent().expect("starts");
        let trouble = Self { dir, pc, agent, clock };
        assert!(!trouble.is_installed(), "{cause} lets the update install");
        trouble
    }

    fn update(&self) -> fleetmend_proto::UpdateRef {
        let first = |state: &super::state::State| {
            state.offers.first().map(|offer| offer.update.clone()).or_else(|| state.installed.first().cloned())
        };
        self.pc.state(first).expect("an update")
    }

    fn is_installed(&self) -> bool {
        // What waits for a restart only is past its trouble.
        let update = self.update();
        self.pc.state(|state| state.is_installed(&update) || state.offer(&update).is_some_and(|it| it.pending))
    }

    async fn retry(&self) -> HResult {
        let update = self.update();
        self.agent.install(run(9), &update).await.expect("an answer").code
    }

    async fn program(&self, program: Program, line: &str) -> i32 {
        self.agent.run(run(1), program, &args(line), LIMIT).await.expect("it ends").code
    }
}

#[tokio::test]
async fn a_transient_trouble_goes_away_with_a_retry_or_two() {
    let pc = Trouble::new(Cause::Transient);
    let mut tries = 0;
    while pc.retry().await.is_failure() {
        tries += 1;
        assert!(tries < 3, "it never goes away");
    }
    assert!(pc.is_installed());
}

#[tokio::test]
async fn a_disabled_service_is_cured_by_its_start_type_alone() {
    let pc = Trouble::new(Cause::ServiceDisabled);
    pc.program(Program::Dism, "/Online /English /Cleanup-Image /RestoreHealth /NoRestart").await;
    assert!(pc.retry().await.is_failure());
    for name in super::install::NEEDED {
        let service = pc.agent.service(name).await.expect("an answer").expect("there");
        if service.start_type == StartType::Disabled {
            let error = pc.agent.start_service(run(2), name).await.expect_err("a disabled service does not start");
            assert!(matches!(error, PlatformError::Failed { code: HResult(0x8007_0422), .. }), "{error}");
            pc.agent.set_start_type(run(3), name, StartType::Manual).await.expect("set");
        }
    }
    assert!(!pc.retry().await.is_failure());
}

#[tokio::test]
async fn a_service_that_windows_keeps_running_must_run() {
    let pc = Trouble::new(Cause::Transient);
    pc.agent.stop_service(run(1), "UsoSvc", LIMIT).await.expect("stops");
    assert_eq!(pc.retry().await, Cause::ServiceDisabled.plain_code());
    pc.agent.start_service(run(2), "UsoSvc").await.expect("starts");
    assert_ne!(pc.retry().await, Cause::ServiceDisabled.plain_code());
}

#[tokio::test]
async fn a_service_that_hangs_while_it_stops_cannot_be_started_until_it_has_stopped() {
    let pc = Trouble::at_speed(Cause::Transient, 20_000.0);
    let short = Duration::from_secs(1);
    let error = pc.agent.stop_service(run(1), "bits", short).await;
    // It did not run: Windows starts it on demand.
    assert!(error.is_ok());
    let error = pc.agent.stop_service(run(1), "UsoSvc", short).await.expect_err("it takes 2 s at least");
    assert!(matches!(error, PlatformError::TimedOut { .. }), "{error}");
    pc.pc.stop_in_the_middle("DoSvc");
    let error = pc.agent.start_service(run(2), "DoSvc").await.expect_err("it is still stopping");
    assert!(matches!(error, PlatformError::Failed { code: HResult(0x8007_0420), .. }), "{error}");
    let error = pc.agent.stop_service(run(3), "DoSvc", short).await.expect_err("nobody finishes it");
    assert!(matches!(error, PlatformError::TimedOut { .. }), "{error}");
    pc.agent.stop_service(run(4), "UsoSvc", LIMIT).await.expect("it stops in the end");
    let again = Pc::open(pc.pc.dir(), pc.pc.profile().clone(), pc.clock.clone(), Options::default()).expect("opens");
    assert!(again.state(State::stopping).is_empty(), "its process died with the simulator's");
}

#[tokio::test]
async fn a_package_of_another_architecture_does_not_fit() {
    let pc = Trouble::new(Cause::BrokenDelivery);
    let kb = pc.update().kb.expect("a KB");
    for arch in [Architecture::X64, Architecture::Arm64] {
        let path = pc.dir.path().join("packages").join(format!("{kb}-{}.msu", arch.word()));
        let code = pc.program(Program::Wusa, &format!("{} /quiet /norestart", path.display())).await;
        let fits = arch == pc.pc.profile().architecture;
        assert_eq!(code.cast_unsigned() == 0x8024_0017, !fits, "{arch}: {code}");
        assert_eq!(pc.is_installed(), fits, "{arch}");
        if fits {
            break;
        }
    }
    assert!(pc.pc.profile().architecture == Architecture::Arm64 || pc.is_installed());
}

#[tokio::test]
async fn a_restart_that_is_called_off_does_not_come() {
    let pc = Trouble::new(Cause::Transient);
    pc.agent.call_off_reboot(run(0)).await.expect_err("none is planned");
    pc.agent.reboot(run(1), Duration::from_secs(900), "needed").await.expect("planned");
    pc.agent.call_off_reboot(run(1)).await.expect("called off");
    assert_eq!(pc.pc.state(|state| state.reboot_planned), None);
}

#[tokio::test]
async fn a_corrupt_store_is_cured_by_restore_health_alone() {
    let pc = Trouble::new(Cause::StoreCorruption);
    assert_eq!(pc.program(Program::Sfc, "/scannow").await, 1);
    assert!(pc.retry().await.is_failure());
    pc.program(Program::Dism, "/Online /English /Cleanup-Image /CheckHealth").await;
    assert!(pc.retry().await.is_failure());
    assert_eq!(pc.program(Program::Dism, "/Online /English /Cleanup-Image /RestoreHealth /NoRestart").await, 0);
    assert_eq!(pc.program(Program::Sfc, "/scannow").await, 0);
    assert!(!pc.retry().await.is_failure());

    let beyond = Trouble::new(Cause::StoreBeyondRepair);
    let code = beyond.program(Program::Dism, "/Online /English /Cleanup-Image /RestoreHealth /NoRestart").await;
    assert_eq!(HResult(code.cast_unsigned()), HResult(0x800F_081F));
    assert!(beyond.retry().await.is_failure());
}

#[tokio::test]
async fn corrupt_caches_are_cured_by_setting_them_aside_and_come_back_when_put_back() {
    let pc = Trouble::new(Cause::CacheCorruption);
    let stop = async |names: &[&str]| {
        for name in names {
            pc.agent.stop_service(run(1), name, Duration::from_secs(60)).await.expect("stops");
        }
    };
    pc.agent.start_service(run(0), "wuauserv").await.expect("starts");
    let error = pc.agent.set_aside(run(2), &Folder::DataStore, "a").await.expect_err("wuauserv keeps it open");
    assert!(matches!(error, PlatformError::Failed { code: HResult(0x8007_0020), .. }), "{error}");

    stop(&["UsoSvc", "wuauserv", "DoSvc", "bits"]).await;
    for folder in [Folder::DataStore, Folder::Download] {
        pc.agent.set_aside(run(3), &folder, "a").await.expect("set aside");
        assert!(pc.agent.aside_exists(&folder, "a").await.expect("an answer"));
        assert!(!pc.agent.folder_exists(&folder).await.expect("an answer"));
    }
    for name in ["wuauserv", "UsoSvc", "DoSvc"] {
        pc.agent.start_service(run(4), name).await.expect("starts");
    }
    assert!(pc.agent.folder_exists(&Folder::DataStore).await.expect("an answer"), "made anew");

    stop(&["wuauserv"]).await;
    for folder in [Folder::DataStore, Folder::Download] {
        pc.agent.put_back(run(5), &folder, "a").await.expect("put back");
    }
    assert!(pc.retry().await.is_failure(), "the old folders are corrupt");
    for folder in [Folder::DataStore, Folder::Download] {
        pc.agent.set_aside(run(6), &folder, "b").await.expect("set aside");
    }
    assert!(!pc.retry().await.is_failure());
}

#[tokio::test]
async fn corrupt_catalogues_are_cured_by_setting_catroot2_aside() {
    let pc = Trouble::new(Cause::CatalogueCorruption);
    pc.agent.stop_service(run(1), "cryptsvc", Duration::from_secs(60)).await.expect("stops");
    pc.agent.set_aside(run(2), &Folder::Catroot2, "a").await.expect("set aside");
    pc.agent.start_service(run(3), "cryptsvc").await.expect("starts");
    assert!(!pc.retry().await.is_failure());
}

#[tokio::test]
async fn leftovers_can_be_cleaned_up_and_documents_cannot() {
    for (cause, cured) in [(Cause::DiskFullOfLeftovers, true), (Cause::DiskFullOfDocuments, false)] {
        let pc = Trouble::new(cause);
        assert!(pc.agent.free_bytes().await.expect("an answer") < 1 << 30);
        pc.program(Program::Dism, "/Online /English /Cleanup-Image /StartComponentCleanup").await;
        assert_eq!(!pc.retry().await.is_failure(), cured, "{cause}");
    }
}

#[tokio::test]
async fn what_a_restart_cures_is_cured_by_a_restart() {
    for cause in [Cause::RebootPending, Cause::DriverInUse] {
        let pc = Trouble::new(cause);
        assert!(!pc.agent.pending_reboot().await.expect("an answer").is_empty());
        assert!(pc.retry().await.is_failure());
        let before = pc.agent.boot_id().await.expect("an id");
        pc.pc.restart(true).expect("restarts");
        let agent = pc.pc.start_agent().expect("starts");
        assert_ne!(agent.boot_id().await.expect("an id"), before);
        let code = agent.install(run(1), &pc.update()).await.expect("an answer").code;
        assert!(!code.is_failure(), "{cause}");
    }
}

#[tokio::test]
async fn only_a_package_gets_past_a_broken_delivery() {
    let pc = Trouble::new(Cause::BrokenDelivery);
    for _ in 0..3 {
        assert!(pc.retry().await.is_failure());
    }
    let kb = pc.update().kb.expect("a KB");
    let arch = pc.pc.profile().architecture.word();
    let path = pc.dir.path().join("packages").join(format!("{kb}-{arch}.msu"));
    let code = pc.program(Program::Wusa, &format!("{} /quiet /norestart", path.display())).await;
    assert!(code == 0 || code == 3010, "{code}");
    assert!(pc.is_installed());
}

#[tokio::test]
async fn nothing_cures_a_bad_update_a_benign_driver_or_a_dying_disk() {
    for cause in [Cause::BadUpdate, Cause::BenignDriver, Cause::DeadDisk] {
        let pc = Trouble::new(cause);
        pc.program(Program::Dism, "/Online /English /Cleanup-Image /RestoreHealth /NoRestart").await;
        pc.pc.restart(true).expect("restarts");
        let agent = pc.pc.start_agent().expect("starts");
        let code = agent.install(run(1), &pc.update()).await.expect("an answer").code;
        assert_eq!(code, cause.plain_code(), "{cause}");
    }
}

#[tokio::test]
async fn a_network_comes_back_by_itself() {
    let pc = Trouble::new(Cause::NetworkDown);
    assert!(pc.agent.offers(run(0)).await.is_err());
    let mut tries = 0;
    while pc.retry().await.is_failure() {
        tries += 1;
        assert!(tries < 100_000, "it never comes back");
    }
}

#[tokio::test]
async fn a_hidden_offer_is_left_alone_and_can_be_shown_again() {
    let pc = Trouble::new(Cause::BenignDriver);
    let update = pc.update();
    pc.agent.set_hidden(run(0), &update, true).await.expect("hidden");
    assert!(pc.agent.offers(run(1)).await.expect("offers")[0].hidden);
    let attempts = pc.pc.state(|state| state.attempts);
    pc.pc.try_by_itself(&update).expect("looks");
    assert_eq!(pc.pc.state(|state| state.attempts), attempts);
    pc.agent.set_hidden(run(2), &update, false).await.expect("shown");
    assert!(!pc.agent.offers(run(3)).await.expect("offers")[0].hidden);
}

#[tokio::test]
async fn a_pc_that_goes_down_answers_its_old_agent_no_more() {
    let pc = Trouble::at_speed(Cause::StoreCorruption, 1000.0);
    let mut signal = pc.agent.reboot_signal();
    let agent = Arc::clone(&pc.agent);
    let repair = tokio::spawn(async move {
        agent.run(run(1), Program::Dism, &args("/Online /Cleanup-Image /RestoreHealth"), LIMIT).await
    });
    while !pc.agent.is_servicing_busy().await.expect("an answer") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pc.pc.restart(false).expect("the power fails");
    tokio::time::timeout(Duration::from_secs(5), signal.wait()).await.expect("the signal comes");
    let silent = tokio::time::timeout(Duration::from_millis(200), repair).await;
    assert!(silent.is_err(), "a dead process was answered");
    assert!(pc.pc.state(|state| state.store_corrupt), "the repair was cut off before its end");
    assert_eq!(super::effects::audit(pc.pc.dir()).expect("a log"), []);
}

#[tokio::test]
async fn an_asked_for_restart_comes_even_if_the_agent_dies_meanwhile() {
    let pc = Trouble::new(Cause::RebootPending);
    pc.agent.reboot(run(0), Duration::from_secs(1), "needed").await.expect("planned");
    tokio::time::sleep(Duration::from_millis(5)).await;
    let again = Pc::open(pc.pc.dir(), pc.pc.profile().clone(), pc.clock.clone(), Options::default()).expect("opens");
    assert_eq!(again.boot(), pc.pc.boot() + 1);
    assert!(again.state(|state| state.reboot_reasons.is_empty()));
}

#[tokio::test]
async fn a_pc_is_the_same_after_its_process_died() {
    let pc = Trouble::new(Cause::Transient);
    while pc.retry().await.is_failure() {}
    let state = pc.pc.state(Clone::clone);
    let files = records::paths(pc.pc.dir());
    let contents: Vec<_> = files.iter().map(|path| std::fs::read(path).expect("a record file")).collect();
    // The process died while it wrote them.
    for (path, content) in files.iter().zip(&contents) {
        std::fs::write(path, &content[..content.len() / 2]).expect("tear");
    }
    let again = Pc::open(pc.pc.dir(), pc.pc.profile().clone(), pc.clock.clone(), Options::default()).expect("opens");
    assert_eq!(again.state(Clone::clone), state);
    for (path, content) in files.iter().zip(&contents) {
        assert_eq!(&std::fs::read(path).expect("a record file"), content, "{}", path.display());
    }
}

#[tokio::test]
async fn the_real_detection_finds_every_attempt_once_with_the_code_behind_the_wrapper() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut wrapped, mut pending, mut drivers) = (0, 0, 0);
    for index in 0..60 {
        let folder = dir.path().join(index.to_string());
        let pc = Pc::open(&folder, Profile::new(5, index), clock(FAST), Options::default()).expect("a new PC");
        for number in 0..3 {
            pc.arrive(&pc.profile().episode(number)).expect("arrives");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let found = detect::outcomes_in(&folder).expect("readable");
        assert_eq!(found.problems, [], "PC {index}");
        let noted: Vec<_> = super::log::read(&folder)
            .expect("a log")
            .into_iter()
            .filter_map(|line| match line {
                super::log::Line::Change(super::change::Change::Tried { attempt }) => Some(attempt),
                super::log::Line::Change(_) | super::log::Line::Effect(_) => None,
            })
            .collect();
        assert_eq!(found.outcomes.len(), noted.len(), "PC {index}: {:#?}", found.outcomes);
        for attempt in noted {
            let of_it = |it: &&fleetmend_proto::Outcome| {
                let apart = (it.occurred_at - attempt.at).abs();
                it.update.is_same(&attempt.update) && apart < chrono::TimeDelta::seconds(10)
            };
            let outcome = found.outcomes.iter().find(of_it).expect("an outcome of its time");
            assert_eq!(outcome.update.update_id, attempt.update.update_id);
            assert_eq!(outcome.update.kb, attempt.update.kb);
            assert_eq!(outcome.update.kind, attempt.update.kind, "{}", attempt.update.title);
            let failed = attempt.reported.is_failure();
            assert_eq!(outcome.result == OutcomeResult::Failed, failed);
            if attempt.reboot_owed {
                assert_eq!(outcome.result, OutcomeResult::PendingReboot);
                pending += 1;
            }
            if failed {
                assert_eq!(outcome.raw_code, attempt.reported);
                let inner = attempt.servicing.unwrap_or(attempt.reported);
                assert_eq!(outcome.code, inner, "PC {index}");
                wrapped += u32::from(inner != attempt.reported);
            }
            drivers += u32::from(attempt.update.kind == UpdateKind::Driver);
        }
    }
    assert!(wrapped > 3 && pending > 3 && drivers > 3, "wrapped {wrapped}, pending {pending}, drivers {drivers}");
}

#[test]
fn at_least_three_in_ten_troubles_are_reported_under_a_code_that_points_elsewhere() {
    let catalogue = Catalogue::embedded();
    for row in causes::ROWS {
        for reported in row.codes {
            assert!(
                catalogue.get(reported.code).is_some(),
                "{} of {} is not in the catalogue",
                reported.code,
                row.cause
            );
        }
    }
    let (mut all, mut elsewhere) = (0_u32, 0_u32);
    let mut met: BTreeMap<Cause, u32> = BTreeMap::new();
    for seed in 0..20 {
        for index in 0..200 {
            for number in 0..3 {
                let Some(trouble) = Profile::new(seed, index).episode(number).trouble else { continue };
                let entry = catalogue.resolve(trouble.code);
                all += 1;
                elsewhere += u32::from(!causes::agrees(trouble.cause.row().cure, entry.category, entry.entry));
                *met.entry(trouble.cause).or_default() += 1;
            }
        }
    }
    assert_eq!(met.len(), Cause::ALL.len(), "some cause is never met: {met:?}");
    assert!(elsewhere * 100 >= all * 30, "only {elsewhere} of {all} disagree");
    assert!(elsewhere * 100 <= all * 60, "{elsewhere} of {all} disagree: codes would mean nothing");
}
