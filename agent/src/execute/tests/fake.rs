//! A scripted PC for the tests of `execute`: services, three folders, a registry of text values, offers, child exits.
//!
//! What it does not model: time an effect takes, effects that happen half, dependencies between services, permissions,
//! trigger starts (but for the one a test asks for), update metadata, disks. The simulator's PC models those.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use fleetmend_proto::{
    Condition, Fence, HResult, OrderId, PackageHash, ResetPc, UpdateRef,
    condition::{Architecture, DeviceRole, ProductType, UpdateAuthority},
};

use crate::{
    journal::Journal,
    platform::{
        Exit, Folder, InstallAnswer, Machine, Offer, Platform, PlatformError, Program, RecordFile, Result, Run,
        Service, ServiceState, StartType,
    },
    state::{AgentDb, Cut},
};

/// What the PC is like; equal states are equal PCs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pc {
    pub services: BTreeMap<String, (StartType2, bool)>,
    pub folders: BTreeSet<String>,
    pub registry: BTreeMap<String, String>,
    pub offers: Vec<(UpdateRef, bool)>,
    pub installed: Vec<UpdateRef>,
}

/// `StartType` with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StartType2 {
    Automatic,
    Delayed,
    Manual,
    Disabled,
}

#[derive(Debug)]
struct Inside {
    pc: Pc,
    boot: u32,
    /// Every effect: which order and step, and what.
    effects: Vec<(Run, String)>,
    /// Effects asked for after the cut: there must be none.
    after_cut: Vec<String>,
    cut: Option<Arc<Cut>>,
    exits: HashMap<&'static str, Exit>,
    fails: HashMap<String, Fail>,
    package: Option<PathBuf>,
    install_code: HResult,
    package_installs: bool,
    pending_reboot: Vec<String>,
    free: u64,
    on_battery: Option<u8>,
    restarts_at_once: bool,
    /// Services that hang: looks at them until they are stopped once asked to.
    hangs: HashMap<String, u32>,
    stopping: HashMap<String, u32>,
    role: DeviceRole,
    is_busy: bool,
    servicing_log: Vec<u8>,
    builds_folders: bool,
    /// Started by a trigger after it was seen stopped once.
    by_itself: Option<String>,
    /// A call that, once made, makes another one fail from then on.
    fails_after: Option<(String, String, Fail)>,
    hidden_once: Option<String>,
    cancels: Option<(String, Journal, OrderId, Fence)>,
    /// What SFC appends to it.
    sfc_writes: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fail {
    Failed,
    TimedOut,
    Unavailable,
}

#[derive(Debug)]
pub(super) struct Fake {
    inside: Mutex<Inside>,
}

impl Fake {
    pub fn new(offered: UpdateRef) -> Self {
        let running = ["UsoSvc", "wuauserv", "DoSvc", "bits", "cryptsvc", "EventSystem", "RpcSs", "mpssvc"];
        let services = running
            .iter()
            .map(|name| ((*name).to_owned(), (StartType2::Automatic, true)))
            .chain(["appidsvc", "wlidsvc"].map(|name| (name.to_owned(), (StartType2::Manual, false))))
            .collect();
        let folders = ["DataStore", "Download", "Catroot2"].map(str::to_owned).into();
        let pc =
            Pc { services, folders, registry: BTreeMap::new(), offers: vec![(offered, false)], installed: Vec::new() };
        Self {
            inside: Mutex::new(Inside {
                pc,
                boot: 1,
                effects: Vec::new(),
                after_cut: Vec::new(),
                cut: None,
                exits: HashMap::new(),
                fails: HashMap::new(),
                package: None,
                install_code: HResult::OK,
                package_installs: true,
                pending_reboot: Vec::new(),
                free: 100 << 30,
                on_battery: None,
                restarts_at_once: false,
                hangs: HashMap::new(),
                stopping: HashMap::new(),
                role: DeviceRole::Workstation,
                is_busy: false,
                builds_folders: true,
                by_itself: None,
                fails_after: None,
                hidden_once: None,
                cancels: None,
                servicing_log: b"[SR] Cannot repair member file of an earlier run\r\n".to_vec(),
                sfc_writes: "CSI 00000007 [SR] Verify complete\r\n".to_owned(),
            }),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inside) -> T) -> T {
        f(&mut self.inside.lock().expect("no test panics while it holds this"))
    }

    pub fn pc(&self) -> Pc {
        self.with(|it| it.pc.clone())
    }

    pub fn change(&self, f: impl FnOnce(&mut Pc)) {
        self.with(|it| f(&mut it.pc));
    }

    pub fn fails(&self, call: &str, how: Fail) {
        self.with(|it| it.fails.insert(call.to_owned(), how));
    }

    pub fn heals(&self) {
        self.with(|it| it.fails.clear());
    }

    pub fn exits(&self, option: &'static str, code: i32, stdout: &str) {
        self.with(|it| it.exits.insert(option, Exit { code, stdout: stdout.as_bytes().to_vec() }));
    }

    pub fn has_package(&self, path: &str, installs: bool) {
        self.with(|it| {
            it.package = Some(path.into());
            it.package_installs = installs;
        });
    }

    pub fn install_answers(&self, code: u32) {
        self.with(|it| it.install_code = HResult(code));
    }

    pub fn owes_restart(&self, reason: &str) {
        self.with(|it| it.pending_reboot = vec![reason.to_owned()]);
    }

    pub fn has_free(&self, bytes: u64) {
        self.with(|it| it.free = bytes);
    }

    pub fn on_battery(&self, percent: u8) {
        self.with(|it| it.on_battery = Some(percent));
    }

    /// Once asked to stop, the service takes so many looks until it has stopped, longer than anybody waits at first.
    pub fn hangs(&self, name: &str, looks: u32) {
        self.with(|it| it.hangs.insert(name.to_owned(), looks));
    }

    /// Nothing that starts makes the folders that are missing.
    pub fn builds_no_folders(&self) {
        self.with(|it| it.builds_folders = false);
    }

    /// A trigger starts it right after somebody has seen that it does not run.
    pub fn starts_by_itself(&self, name: &str) {
        self.with(|it| it.by_itself = Some(name.to_owned()));
    }

    /// From the first `call` on, `other` fails.
    pub fn fails_after(&self, call: &str, other: &str, how: Fail) {
        self.with(|it| it.fails_after = Some((call.to_owned(), other.to_owned(), how)));
    }

    /// Only this call fails from now on.
    pub fn fails_only(&self, call: &str, how: Fail) {
        self.heals();
        self.fails(call, how);
    }

    /// The next look for the folder does not find it.
    pub fn hides_folder_once(&self, folder: &str) {
        self.with(|it| it.hidden_once = Some(folder.to_owned()));
    }

    /// The controller cancels the order in the moment of this call.
    pub fn cancels_at(&self, call: &str, db: &AgentDb, order: OrderId, fence: Fence) {
        self.with(|it| it.cancels = Some((call.to_owned(), Journal::new(db.clone()), order, fence)));
    }

    async fn cancel_at(&self, call: &str) {
        let due = self.with(|it| it.cancels.take_if(|it| it.0 == call));
        if let Some((_, journal, order, fence)) = due {
            assert!(journal.cancel(order, fence).await.expect("the journal works"));
        }
    }

    pub fn has_role(&self, role: DeviceRole) {
        self.with(|it| it.role = role);
    }

    /// Another installer works.
    pub fn is_busy(&self, busy: bool) {
        self.with(|it| it.is_busy = busy);
    }

    pub fn sfc_writes(&self, log: &str) {
        self.with(|it| log.clone_into(&mut it.sfc_writes));
    }

    /// A restart that is asked for happens at once, under the agent's feet.
    pub fn restarts_at_once(&self) {
        self.with(|it| it.restarts_at_once = true);
    }

    /// The system starts: another boot id, and what starts automatically runs.
    pub fn restart(&self) {
        self.with(|it| {
            it.boot += 1;
            it.stopping.clear();
            it.pending_reboot.clear();
            for (start, runs) in it.pc.services.values_mut() {
                *runs = matches!(start, StartType2::Automatic | StartType2::Delayed);
            }
            if it.builds_folders {
                rebuild(&mut it.pc);
            }
        });
    }

    /// From now on effects after the cut of `cut` are violations.
    pub fn lives_with(&self, cut: Arc<Cut>) {
        self.with(|it| it.cut = Some(cut));
    }

    pub fn after_cut(&self) -> Vec<String> {
        self.with(|it| it.after_cut.clone())
    }

    pub fn effects(&self) -> Vec<String> {
        self.with(|it| it.effects.iter().map(|(_, what)| what.clone()).collect())
    }

    pub fn effects_of(&self, run: Run) -> Vec<String> {
        self.with(|it| it.effects.iter().filter(|(by, _)| *by == run).map(|(_, what)| what.clone()).collect())
    }

    pub fn count(&self, prefix: &str) -> usize {
        self.effects().iter().filter(|it| it.starts_with(prefix)).count()
    }

    fn effect<T>(&self, run: Run, what: String, f: impl FnOnce(&mut Inside) -> T) -> Result<T> {
        self.fail(&what)?;
        Ok(self.with(|it| {
            if it.cut.as_ref().is_some_and(|cut| cut.is_dead()) {
                it.after_cut.push(what.clone());
            }
            if let Some((_, other, how)) = it.fails_after.take_if(|(call, _, _)| *call == what) {
                it.fails.insert(other, how);
            }
            it.effects.push((run, what));
            f(it)
        }))
    }

    fn fail(&self, what: &str) -> Result<()> {
        let what = what.to_owned();
        match self.with(|it| it.fails.get(&what).copied()) {
            None => Ok(()),
            Some(Fail::Failed) => {
                Err(PlatformError::Failed { what, code: HResult(0x8000_4005), why: "scripted".to_owned() })
            }
            Some(Fail::TimedOut) => Err(PlatformError::TimedOut { what, limit: Duration::from_secs(60) }),
            Some(Fail::Unavailable) => Err(PlatformError::Unavailable { what, why: "scripted".to_owned() }),
        }
    }
}

fn rebuild(pc: &mut Pc) {
    if pc.services.get("wuauserv").is_some_and(|it| it.1) {
        pc.folders.extend(["DataStore".to_owned(), "Download".to_owned()]);
    }
    if pc.services.get("cryptsvc").is_some_and(|it| it.1) {
        pc.folders.insert("Catroot2".to_owned());
    }
}

fn aside(folder: &Folder, suffix: &str) -> String {
    format!("{folder:?}.{suffix}")
}

#[async_trait]
impl Platform for Fake {
    async fn machine(&self) -> Result<Machine> {
        Ok(Machine { computer_name: "LAB-07".to_owned(), serial: "5CG1".to_owned(), smbios_uuid: None, ek_hash: None })
    }

    async fn condition(&self) -> Result<Condition> {
        let battery = self.with(|it| it.on_battery);
        Ok(Condition {
            collected_at: super::START,
            computer_name: "LAB-07".to_owned(),
            serial: "5CG1".to_owned(),
            smbios_uuid: None,
            ek_hash: None,
            os_build: 26100,
            ubr: 4000,
            display_version: "24H2".to_owned(),
            edition: "Enterprise".to_owned(),
            manufacturer: "Contoso".to_owned(),
            model: "One".to_owned(),
            architecture: Architecture::X64,
            product_type: ProductType::Client,
            time_zone: "Europe/Berlin".to_owned(),
            utc_offset_minutes: 60,
            update_authority: UpdateAuthority::WindowsUpdate,
            role: self.with(|it| it.role),
            reboot_pending: Vec::new(),
            system_free_bytes: 0,
            on_ac_power: battery.is_none(),
            battery_percent: battery,
            agent_version: "0".to_owned(),
            unavailable_sources: Vec::new(),
            reset_feature: false,
        })
    }

    async fn boot_id(&self) -> Result<String> {
        self.fail("boot_id")?;
        Ok(self.with(|it| it.boot).to_string())
    }

    async fn record_files(&self) -> Result<Vec<RecordFile>> {
        Ok(Vec::new())
    }

    async fn pending_reboot(&self) -> Result<Vec<String>> {
        Ok(self.with(|it| it.pending_reboot.clone()))
    }

    async fn is_servicing_busy(&self) -> Result<bool> {
        Ok(self.with(|it| it.is_busy))
    }

    async fn servicing_log_end(&self) -> Result<u64> {
        Ok(self.with(|it| it.servicing_log.len() as u64))
    }

    async fn servicing_log(&self, from: u64) -> Result<Vec<u8>> {
        let from = usize::try_from(from).expect("small");
        Ok(self.with(|it| it.servicing_log.get(from..).unwrap_or(&it.servicing_log).to_vec()))
    }

    async fn service(&self, name: &str) -> Result<Option<Service>> {
        let stopping = self.with(|it| match it.stopping.get_mut(name) {
            Some(0) => {
                it.stopping.remove(name);
                it.pc.services.entry(name.to_owned()).and_modify(|it| it.1 = false);
                false
            }
            Some(looks) => {
                *looks -= 1;
                true
            }
            None => false,
        });
        let seen = self.with(|it| it.pc.services.get(name).copied());
        self.with(|it| {
            if seen.is_some_and(|it| !it.1) && it.by_itself.take_if(|it| it == name).is_some() {
                it.pc.services.entry(name.to_owned()).and_modify(|it| it.1 = true);
            }
        });
        Ok(seen.map(|(start, runs)| Service {
            start_type: match start {
                StartType2::Automatic => StartType::Automatic,
                StartType2::Delayed => StartType::AutomaticDelayed,
                StartType2::Manual => StartType::Manual,
                StartType2::Disabled => StartType::Disabled,
            },
            state: match (stopping, runs) {
                (true, _) => ServiceState::StopPending,
                (false, true) => ServiceState::Running,
                (false, false) => ServiceState::Stopped,
            },
        }))
    }

    async fn set_start_type(&self, run: Run, name: &str, start: StartType) -> Result<()> {
        let start = match start {
            StartType::Automatic => StartType2::Automatic,
            StartType::AutomaticDelayed => StartType2::Delayed,
            StartType::Manual => StartType2::Manual,
            StartType::Disabled => StartType2::Disabled,
        };
        self.effect(run, format!("set_start_type {name}"), |it| {
            if let Some(service) = it.pc.services.get_mut(name) {
                service.0 = start;
            }
        })
    }

    async fn start_service(&self, run: Run, name: &str) -> Result<()> {
        if self.with(|it| it.stopping.contains_key(name)) {
            let (what, why) = (format!("start {name}"), "it is still stopping".to_owned());
            return Err(PlatformError::Failed { what, code: HResult(0x8007_0420), why });
        }
        self.cancel_at(&format!("start {name}")).await;
        self.effect(run, format!("start {name}"), |it| {
            if let Some(service) = it.pc.services.get_mut(name) {
                service.1 = true;
            }
            if it.builds_folders {
                rebuild(&mut it.pc);
            }
        })
    }

    async fn stop_service(&self, run: Run, name: &str, limit: Duration) -> Result<()> {
        if self.with(|it| it.stopping.contains_key(name)) {
            return Err(PlatformError::TimedOut { what: format!("stop {name}"), limit });
        }
        if let Some(looks) = self.with(|it| it.hangs.get(name).copied()) {
            self.effect(run, format!("stop {name}"), |it| it.stopping.insert(name.to_owned(), looks))?;
            return Err(PlatformError::TimedOut { what: format!("stop {name}"), limit });
        }
        self.effect(run, format!("stop {name}"), |it| {
            if let Some(service) = it.pc.services.get_mut(name) {
                service.1 = false;
            }
        })
    }

    async fn folder_exists(&self, folder: &Folder) -> Result<bool> {
        let name = format!("{folder:?}");
        let hidden = self.with(|it| it.hidden_once.take_if(|it| *it == name).is_some());
        Ok(!hidden && self.with(|it| it.pc.folders.contains(&name)))
    }

    async fn aside_exists(&self, folder: &Folder, suffix: &str) -> Result<bool> {
        Ok(self.with(|it| it.pc.folders.contains(&aside(folder, suffix))))
    }

    async fn set_aside(&self, run: Run, folder: &Folder, suffix: &str) -> Result<()> {
        let moved = self.effect(run, format!("set_aside {folder:?}"), |it| {
            let in_use = ["wuauserv", "cryptsvc"].iter().any(|name| it.pc.services.get(*name).is_some_and(|it| it.1));
            !in_use && it.pc.folders.remove(&format!("{folder:?}")) && it.pc.folders.insert(aside(folder, suffix))
        })?;
        assert!(moved, "renamed while in use, twice, or over another");
        Ok(())
    }

    async fn put_back(&self, run: Run, folder: &Folder, suffix: &str) -> Result<()> {
        self.effect(run, format!("put_back {folder:?}"), |it| {
            let name = format!("{folder:?}");
            it.pc.folders.remove(&aside(folder, suffix));
            if !it.pc.folders.insert(name) {
                it.pc.folders.insert(format!("{}.new", aside(folder, suffix)));
            }
        })
    }

    async fn free_bytes(&self) -> Result<u64> {
        Ok(self.with(|it| it.free))
    }

    async fn package(&self, hash: PackageHash) -> Result<PathBuf> {
        let why = "no file of the package folder has it".to_owned();
        self.with(|it| it.package.clone()).ok_or(PlatformError::Unavailable { what: format!("package {hash}"), why })
    }

    async fn unpacked(&self, run: Run, _hash: PackageHash) -> Result<PathBuf> {
        self.effect(run, "unpacked".to_owned(), |_| PathBuf::from("/packages/unpacked"))
    }

    async fn registry_string(&self, key: &str, value: &str) -> Result<Option<String>> {
        Ok(self.with(|it| it.pc.registry.get(&format!("{key}\\{value}")).cloned()))
    }

    async fn set_registry_string(&self, run: Run, key: &str, value: &str, data: Option<&str>) -> Result<()> {
        self.effect(run, format!("registry {value}"), |it| match data {
            Some(data) => it.pc.registry.insert(format!("{key}\\{value}"), data.to_owned()),
            None => it.pc.registry.remove(&format!("{key}\\{value}")),
        })?;
        Ok(())
    }

    async fn run(&self, run: Run, program: Program, args: &[String], _limit: Duration) -> Result<Exit> {
        if program == Program::TroubleshootingPack {
            let why = "this Windows has none".to_owned();
            return Err(PlatformError::Unavailable { what: "the troubleshooting pack".to_owned(), why });
        }
        let line = args.join(" ");
        self.effect(run, format!("run {program:?} {line}"), |it| {
            let is_package = program == Program::Wusa || line.contains("/Add-Package") || line.contains("/add-driver");
            if is_package && it.package_installs {
                let offers = std::mem::take(&mut it.pc.offers);
                it.pc.installed.extend(offers.into_iter().map(|(update, _)| update));
            }
            if program == Program::Sfc {
                let lines = it.sfc_writes.clone();
                it.servicing_log.extend(lines.into_bytes());
            }
            let known = it.exits.iter().find(|(option, _)| line.contains(**option)).map(|(_, exit)| exit.clone());
            known.unwrap_or(Exit { code: 0, stdout: Vec::new() })
        })
    }

    async fn is_update_client_busy(&self) -> Result<bool> {
        Ok(self.with(|it| it.is_busy))
    }

    async fn offers(&self, _run: Run) -> Result<Vec<Offer>> {
        self.fail("offers")?;
        let offers = self.pc().offers;
        Ok(offers.into_iter().map(|(update, hidden)| Offer { update, hidden, mandatory: false }).collect())
    }

    async fn is_installed(&self, update: &UpdateRef) -> Result<bool> {
        Ok(self.pc().installed.iter().any(|it| it.satisfies(update)))
    }

    async fn supersedes(&self, update: &UpdateRef) -> Result<Vec<uuid::Uuid>> {
        let installed = self.pc().installed;
        Ok(installed.into_iter().find(|it| it.is_same(update)).map(|it| it.supersedes).unwrap_or_default())
    }

    async fn install(&self, run: Run, update: &UpdateRef) -> Result<InstallAnswer> {
        self.effect(run, "install".to_owned(), |it| {
            if !it.install_code.is_failure() {
                it.pc.offers.retain(|(offer, _)| !offer.is_same(update));
                it.pc.installed.push(update.clone());
            }
            InstallAnswer { code: it.install_code, reboot_required: false }
        })
    }

    async fn set_hidden(&self, run: Run, update: &UpdateRef, hidden: bool) -> Result<()> {
        self.effect(run, "set_hidden".to_owned(), |it| {
            for offer in it.pc.offers.iter_mut().filter(|it| it.0.is_same(update)) {
                offer.1 = hidden;
            }
        })
    }

    async fn cancel_failed_transfers(&self, run: Run) -> Result<u32> {
        self.effect(run, "cancel_failed_transfers".to_owned(), |_| 0)
    }

    async fn reboot(&self, run: Run, _delay: Duration, _reason: &str) -> Result<()> {
        self.effect(run, "reboot".to_owned(), |_| ())?;
        self.cancel_at("reboot").await;
        if self.with(|it| it.restarts_at_once) {
            self.restart();
        }
        Ok(())
    }

    async fn call_off_reboot(&self, run: Run) -> Result<()> {
        self.effect(run, "call_off_reboot".to_owned(), |_| ())
    }

    async fn reset_pc(&self, run: Run, _reset: &ResetPc) -> Result<()> {
        self.effect(run, "reset_pc".to_owned(), |_| ())
    }
}
