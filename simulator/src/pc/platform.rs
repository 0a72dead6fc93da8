//! The agent's view of a simulated PC: `Platform` for one start of the agent's process.
//!
//! Reads answer from the truth. Changes are noted in the log before they begin and hold when their time is over; they
//! run on tasks of their own, so an agent that stops waiting does not stop them, as on a real PC.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    Pc,
    change::{Change, Offered, Place, Start},
    install::{self, Route},
    log::LogError,
    packages,
    programs::{self, Ran},
    records,
    state::State,
    view::{AgentView, Busy, io},
};
use async_trait::async_trait;
use chrono::TimeDelta;
use fleetmend_agent::platform::{
    Exit, Folder, InstallAnswer, Machine, Offer, Platform, PlatformError, Program, RecordFile, Result, Run, Service,
    ServiceState, StartType,
};
use fleetmend_proto::{
    Condition, HResult, PackageHash, ResetPc, UpdateRef,
    condition::{DeviceRole, ProductType, UpdateAuthority},
};
use uuid::Uuid;

const SERVICE_DISABLED: HResult = HResult(0x8007_0422);
const SERVICE_ALREADY_RUNNING: HResult = HResult(0x8007_0420);
const SERVICE_NOT_FOUND: HResult = HResult(0x8007_0424);
const DEPENDENT_SERVICES_RUNNING: HResult = HResult(0x8007_041B);
const NO_SHUTDOWN_IN_PROGRESS: HResult = HResult(0x8007_045C);
const SHARING_VIOLATION: HResult = HResult(0x8007_0020);
const FILE_NOT_FOUND: HResult = HResult(0x8007_0002);
const ALREADY_EXISTS: HResult = HResult(0x8007_00B7);
const NAME_NOT_RESOLVED: HResult = HResult(0x8024_402C);
const ITEM_NOT_FOUND: HResult = HResult(0x8024_0008);
const INSTALL_NOT_ALLOWED: HResult = HResult(0x8024_0016);
const REMOVAL_NOT_ALLOWED: HResult = HResult(0x8024_8016);

/// When Windows restarts by itself for what it installed, after a restart was called off.
const WINDOWS_PLANS_WITHIN: TimeDelta = TimeDelta::hours(12);

fn failed<T>(what: impl Into<String>, code: HResult, why: impl Into<String>) -> Result<T> {
    Err(PlatformError::Failed { what: what.into(), code, why: why.into() })
}

fn unavailable<T>(what: impl Into<String>, why: impl Into<String>) -> Result<T> {
    Err(PlatformError::Unavailable { what: what.into(), why: why.into() })
}

/// The service that keeps a folder open while it runs.
const fn holders(place: Place) -> &'static [&'static str] {
    match place {
        Place::DataStore => &["wuauserv"],
        Place::Download => &["wuauserv", "bits"],
        Place::Catroot2 => &["cryptsvc"],
    }
}

fn held_by(state: &State, place: Place) -> Option<&'static str> {
    let stopped = |name: &&&str| state.service(name).is_none_or(|service| service.state == ServiceState::Stopped);
    holders(place).iter().find(|name| !stopped(name)).copied()
}

/// Waits for a service that stops already.
async fn stopped_meanwhile(pc: &Arc<Pc>, name: String, limit: Duration) -> Result<()> {
    let began = pc.clock.now();
    while pc.state(|state| state.service(&name).is_some_and(|it| it.state == ServiceState::StopPending)) {
        if (pc.clock.now() - began).to_std().is_ok_and(|waited| waited > limit) {
            return Err(PlatformError::TimedOut { what: format!("stopping {name}"), limit });
        }
        pc.pass(Duration::from_secs(1)).await;
    }
    Ok(())
}

#[async_trait]
impl Platform for AgentView {
    async fn machine(&self) -> Result<Machine> {
        self.alive().await;
        Ok(self.pc.profile.machine.clone())
    }

    async fn condition(&self) -> Result<Condition> {
        self.alive().await;
        let profile = &self.pc.profile;
        let (reboot_pending, free, month) = self.pc.state(|state| {
            let month = state.installed.iter().filter(|update| update.kb.is_some()).count();
            (state.reboot_reasons.iter().cloned().collect(), state.free_bytes(), month)
        });
        Ok(Condition {
            collected_at: self.pc.clock.now(),
            computer_name: profile.machine.computer_name.clone(),
            serial: profile.machine.serial.clone(),
            smbios_uuid: profile.machine.smbios_uuid,
            ek_hash: profile.machine.ek_hash.map(|hash| PackageHash(hash).to_string()),
            os_build: profile.release.build,
            ubr: 1000 + u32::try_from(month).unwrap_or(0) * 100,
            display_version: profile.release.display_version.to_owned(),
            edition: profile.edition.to_owned(),
            manufacturer: profile.manufacturer.to_owned(),
            model: profile.model.to_owned(),
            architecture: profile.architecture,
            product_type: ProductType::Client,
            time_zone: profile.place.zone.to_owned(),
            utc_offset_minutes: profile.place.offset_minutes,
            update_authority: UpdateAuthority::WindowsUpdate,
            role: DeviceRole::Workstation,
            reboot_pending,
            system_free_bytes: free,
            on_ac_power: true,
            battery_percent: profile.has_battery.then_some(97),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            unavailable_sources: Vec::new(),
            reset_feature: false,
        })
    }

    async fn boot_id(&self) -> Result<String> {
        self.alive().await;
        Ok(self.pc.profile.dice.uuid(&format!("boot {}", self.boot)).simple().to_string())
    }

    async fn record_files(&self) -> Result<Vec<RecordFile>> {
        self.alive().await;
        let files = records::paths(&self.pc.dir).into_iter().filter(|path| path.exists());
        Ok(files.map(|path| RecordFile { path }).collect())
    }

    async fn pending_reboot(&self) -> Result<Vec<String>> {
        self.read(|state| state.reboot_reasons.iter().cloned().collect()).await
    }

    async fn is_servicing_busy(&self) -> Result<bool> {
        self.alive().await;
        Ok(self.pc.inner().busy > 0)
    }

    async fn service(&self, name: &str) -> Result<Option<Service>> {
        self.read(|state| state.service(name).map(Service::from)).await
    }

    async fn set_start_type(&self, run: Run, name: &str, start: StartType) -> Result<()> {
        let (name, boot) = (name.to_owned(), self.boot);
        let detail = format!("{name} {start:?}");
        self.effect(run, "set_start_type", detail, async move |pc: Arc<Pc>| {
            if pc.state(|state| state.service(&name).is_none()) {
                return failed(format!("service {name}"), SERVICE_NOT_FOUND, "there is no such service");
            }
            let change = Change::StartTypeSet { name, start: Start::from(start) };
            Self::later(&pc, boot, Duration::from_secs(1), vec![change]).await
        })
        .await
    }

    async fn start_service(&self, run: Run, name: &str) -> Result<()> {
        let (name, boot) = (name.to_owned(), self.boot);
        let duration = self.seconds(&format!("start {name}"), 1, 8);
        self.effect(run, "start_service", name.clone(), async move |pc: Arc<Pc>| {
            match pc.state(|state| state.service(&name)) {
                None => failed(format!("service {name}"), SERVICE_NOT_FOUND, "there is no such service"),
                Some(service) if service.start == Start::Disabled => {
                    failed(format!("starting {name}"), SERVICE_DISABLED, "the service is disabled")
                }
                Some(service) if service.state == ServiceState::Running => Ok(()),
                Some(service) if service.state == ServiceState::StopPending => {
                    failed(format!("starting {name}"), SERVICE_ALREADY_RUNNING, "the service is still stopping")
                }
                Some(_) => Self::later(&pc, boot, duration, vec![Change::ServiceStarted { name }]).await,
            }
        })
        .await
    }

    async fn stop_service(&self, run: Run, name: &str, limit: Duration) -> Result<()> {
        let (name, boot) = (name.to_owned(), self.boot);
        let duration = self.stopping(&name);
        self.effect(run, "stop_service", name.clone(), async move |pc: Arc<Pc>| {
            let (service, dependent) = pc.state(|state| (state.service(&name), state.service("appidsvc")));
            let Some(service) = service else {
                return failed(format!("service {name}"), SERVICE_NOT_FOUND, "there is no such service");
            };
            if service.state == ServiceState::Stopped {
                return Ok(());
            }
            if service.state == ServiceState::StopPending {
                return stopped_meanwhile(&pc, name, limit).await;
            }
            let dependent_runs = dependent.is_some_and(|it| it.state == ServiceState::Running);
            if name.eq_ignore_ascii_case("cryptsvc") && dependent_runs {
                return failed(format!("stopping {name}"), DEPENDENT_SERVICES_RUNNING, "appidsvc runs and needs it");
            }
            let stopping = Change::ServiceStopping { name: name.clone() };
            Self::later(&pc, boot, Duration::ZERO, vec![stopping]).await?;
            let stopped = vec![Change::ServiceStopped { name: name.clone() }];
            if duration > limit {
                let whole = Arc::clone(&pc);
                tokio::spawn(async move { Self::later(&whole, boot, duration, stopped).await });
                pc.pass(limit).await;
                return Err(PlatformError::TimedOut { what: format!("stopping {name}"), limit });
            }
            Self::later(&pc, boot, duration, stopped).await
        })
        .await
    }

    async fn folder_exists(&self, folder: &Folder) -> Result<bool> {
        let place = Place::from(folder);
        self.read(|state| state.folder(place, None).is_some()).await
    }

    async fn aside_exists(&self, folder: &Folder, suffix: &str) -> Result<bool> {
        let place = Place::from(folder);
        self.read(|state| state.folder(place, Some(suffix)).is_some()).await
    }

    async fn set_aside(&self, run: Run, folder: &Folder, suffix: &str) -> Result<()> {
        let (place, suffix, boot) = (Place::from(folder), suffix.to_owned(), self.boot);
        let what = format!("setting {place:?} aside");
        self.effect(run, "set_aside", format!("{place:?} {suffix}"), async move |pc: Arc<Pc>| {
            let refused = pc.state(|state| {
                if let Some(holder) = held_by(state, place) {
                    Some((SHARING_VIOLATION, format!("{holder} runs and keeps it open")))
                } else if state.folder(place, None).is_none() {
                    Some((FILE_NOT_FOUND, "the folder is not there".to_owned()))
                } else if state.folder(place, Some(&suffix)).is_some() {
                    Some((ALREADY_EXISTS, format!("a copy named {suffix} is there already")))
                } else {
                    None
                }
            });
            match refused {
                Some((code, why)) => failed(what, code, why),
                None => Self::later(&pc, boot, Duration::from_secs(1), vec![Change::SetAside { place, suffix }]).await,
            }
        })
        .await
    }

    async fn put_back(&self, run: Run, folder: &Folder, suffix: &str) -> Result<()> {
        let (place, suffix, boot) = (Place::from(folder), suffix.to_owned(), self.boot);
        let what = format!("putting {place:?} back");
        self.effect(run, "put_back", format!("{place:?} {suffix}"), async move |pc: Arc<Pc>| {
            let refused = pc.state(|state| {
                if let Some(holder) = held_by(state, place) {
                    Some((SHARING_VIOLATION, format!("{holder} runs and keeps it open")))
                } else if state.folder(place, Some(&suffix)).is_none() {
                    Some((FILE_NOT_FOUND, format!("there is no copy named {suffix}")))
                } else {
                    None
                }
            });
            match refused {
                Some((code, why)) => failed(what, code, why),
                None => Self::later(&pc, boot, Duration::from_secs(1), vec![Change::PutBack { place, suffix }]).await,
            }
        })
        .await
    }

    async fn free_bytes(&self) -> Result<u64> {
        self.read(State::free_bytes).await
    }

    async fn package(&self, hash: PackageHash) -> Result<PathBuf> {
        self.alive().await;
        let Some(dir) = &self.pc.options.packages else {
            return unavailable("the package", "no package folder is configured");
        };
        match packages::find(dir, hash) {
            Ok(Some(path)) => Ok(path),
            Ok(None) => unavailable("the package", format!("no file in {} has the hash {hash}", dir.display())),
            Err(source) => Err(PlatformError::Io { what: format!("reading {}", dir.display()), source }),
        }
    }

    async fn registry_string(&self, key: &str, value: &str) -> Result<Option<String>> {
        const VERSION_KEY: &str = "software\\microsoft\\windows nt\\currentversion";
        let name = (key.to_ascii_lowercase(), value.to_ascii_lowercase());
        let release = self.pc.profile.release;
        self.read(|state| {
            state.registry.get(&name).cloned().or_else(|| match (name.0.as_str(), name.1.as_str()) {
                (VERSION_KEY, "currentbuildnumber" | "currentbuild") => Some(release.build.to_string()),
                (VERSION_KEY, "displayversion") => Some(release.display_version.to_owned()),
                (VERSION_KEY, "editionid") => Some(self.pc.profile.edition.to_owned()),
                (VERSION_KEY, "installationtype") => Some("Client".to_owned()),
                (_, _) => None,
            })
        })
        .await
    }

    async fn set_registry_string(&self, run: Run, key: &str, value: &str, data: Option<&str>) -> Result<()> {
        let boot = self.boot;
        let detail = format!("{key}\\{value} = {data:?}");
        let change =
            Change::RegistrySet { key: key.to_owned(), value: value.to_owned(), data: data.map(str::to_owned) };
        self.effect(run, "set_registry_string", detail, async move |pc: Arc<Pc>| {
            Self::later(&pc, boot, Duration::ZERO, vec![change]).await
        })
        .await
    }

    async fn run(&self, run: Run, program: Program, args: &[String], limit: Duration) -> Result<Exit> {
        let name = format!("{program:?}");
        if program == Program::SetupMedia {
            return unavailable("in-place repair media", "no media is in the package folder");
        }
        let modern = self.pc.profile.release.build >= 26_100;
        if program == Program::TroubleshootingPack && modern {
            return unavailable("the troubleshooting pack", "this release of Windows no longer has it");
        }
        let (args, boot) = (args.to_vec(), self.boot);
        let detail = format!("{name} {}", args.join(" "));
        let what = name.clone();
        let running = self.effect(run, "run", detail, async move |pc: Arc<Pc>| {
            let _busy = Busy::new(&pc, boot);
            let (dice, host, now) = (pc.profile.dice, pc.profile.architecture, pc.clock.now());
            let ran = pc.state(|state| match program {
                Program::Dism => programs::dism(state, host, &dice, &args, now),
                Program::Sfc => programs::sfc(state, &dice, &args),
                Program::Wusa => programs::wusa(state, host, &dice, &args, now),
                Program::TroubleshootingPack => programs::troubleshooting_pack(state),
                Program::Netsh => programs::harmless(2, "    Direct access (no proxy server).\r\n"),
                Program::PnpUtil | Program::RegSvr32 | Program::UsoClient | Program::W32tm | Program::SetupMedia => {
                    programs::harmless(3, "")
                }
            });
            match ran {
                Ran::Ended { duration, changes, exit } => {
                    Self::later(&pc, boot, duration, changes).await?;
                    Ok(exit)
                }
                Ran::Installs { offer, verdict, by_update_client } => {
                    pc.pass(verdict.duration).await;
                    let mut inner = pc.inner();
                    if inner.state.boot == boot {
                        let client = if by_update_client { "wusa" } else { "DISM" };
                        pc.settle(&mut inner, &offer, verdict, client, by_update_client)
                            .map_err(|error| io(client, error))?;
                    }
                    Ok(programs::installer_exit(&verdict, by_update_client))
                }
            }
        });
        match tokio::time::timeout(self.pc.clock.real(limit), running).await {
            Ok(exit) => exit,
            Err(_) => {
                self.alive().await;
                Err(PlatformError::TimedOut { what, limit })
            }
        }
    }

    async fn is_update_client_busy(&self) -> Result<bool> {
        self.alive().await;
        Ok(self.pc.inner().busy > 0)
    }

    async fn offers(&self, run: Run) -> Result<Vec<Offer>> {
        let duration = self.seconds("search", 40, 300);
        self.effect(run, "offers", String::new(), async move |pc: Arc<Pc>| {
            pc.pass(duration).await;
            let now = pc.clock.now();
            pc.state(|state| {
                if state.is_disabled("wuauserv") {
                    return failed("the search for updates", SERVICE_DISABLED, "wuauserv is disabled");
                }
                if state.is_network_down(now) {
                    return failed("the search for updates", NAME_NOT_RESOLVED, "the update service cannot be found");
                }
                let offer =
                    |it: &Offered| Offer { update: it.update.clone(), hidden: it.hidden, mandatory: it.mandatory };
                Ok(state.offers.iter().filter(|it| !it.pending).map(offer).collect())
            })
        })
        .await
    }

    async fn is_installed(&self, update: &UpdateRef) -> Result<bool> {
        self.read(|state| state.is_installed(update)).await
    }

    async fn supersedes(&self, update: &UpdateRef) -> Result<Vec<Uuid>> {
        self.read(|state| {
            let offered = state.offers.iter().map(|offer| &offer.update);
            let known = state.installed.iter().chain(offered).find(|known| known.is_same(update));
            known.map(|it| it.supersedes.clone()).unwrap_or_default()
        })
        .await
    }

    async fn install(&self, run: Run, update: &UpdateRef) -> Result<InstallAnswer> {
        let (update, boot) = (update.clone(), self.boot);
        let detail = update.kb.map_or_else(|| format!("{:?}", update.update_id), |kb| kb.to_string());
        self.effect(run, "install", detail, async move |pc: Arc<Pc>| {
            let not_done = |code| Ok(InstallAnswer { code, reboot_required: false });
            let begun = {
                let inner = pc.inner();
                match inner.state.offer(&update) {
                    Some(offer) if offer.pending => {
                        return Ok(InstallAnswer { code: HResult::OK, reboot_required: true });
                    }
                    Some(_) if inner.busy > 0 => return not_done(INSTALL_NOT_ALLOWED),
                    Some(offer) => {
                        let now = pc.clock.now();
                        let dice = &pc.profile.dice;
                        Some((offer.clone(), install::attempt(&inner.state, offer, Route::UpdateClient, dice, now)))
                    }
                    None => None,
                }
            };
            let Some((offer, verdict)) = begun else {
                return not_done(ITEM_NOT_FOUND);
            };
            let _busy = Busy::new(&pc, boot);
            pc.pass(verdict.duration).await;
            let mut inner = pc.inner();
            if inner.state.boot == boot {
                pc.settle(&mut inner, &offer, verdict, "fleetmend-agent", true)
                    .map_err(|error| io("the install", error))?;
            }
            let failed = verdict.reported.is_failure();
            let code = if failed { verdict.reported } else { HResult::OK };
            Ok(InstallAnswer { code, reboot_required: verdict.reboot_owed })
        })
        .await
    }

    async fn set_hidden(&self, run: Run, update: &UpdateRef, hidden: bool) -> Result<()> {
        let (update, boot) = (update.clone(), self.boot);
        let detail = format!("{:?} {hidden}", update.update_id);
        self.effect(run, "set_hidden", detail, async move |pc: Arc<Pc>| {
            let found = pc.state(|state| state.offer(&update).map(|it| (it.update.update_id, it.mandatory)));
            match found {
                Some((Some(_), true)) if hidden => failed(
                    "hiding the update",
                    REMOVAL_NOT_ALLOWED,
                    "Windows does not let a mandatory update be hidden",
                ),
                Some((Some(update_id), _)) => {
                    let change = Change::HiddenSet { update_id, hidden };
                    Self::later(&pc, boot, Duration::from_secs(2), vec![change]).await
                }
                Some((None, _)) | None => failed("hiding the update", ITEM_NOT_FOUND, "it is not offered"),
            }
        })
        .await
    }

    async fn cancel_failed_transfers(&self, run: Run) -> Result<u32> {
        let boot = self.boot;
        self.effect(run, "cancel_failed_transfers", String::new(), async move |pc: Arc<Pc>| {
            let count = pc.state(|state| state.failed_transfers);
            Self::later(&pc, boot, Duration::from_secs(2), vec![Change::TransfersCancelled]).await?;
            Ok(count)
        })
        .await
    }

    async fn reboot(&self, run: Run, delay: Duration, reason: &str) -> Result<()> {
        self.effect(run, "reboot", reason.to_owned(), async move |pc: Arc<Pc>| {
            let delay = TimeDelta::from_std(delay).unwrap_or(TimeDelta::zero());
            let at = pc.clock.now() + delay;
            let earlier = pc.state(|state| state.reboot_planned).map_or(at, |planned| planned.min(at));
            pc.commit(&mut pc.inner(), vec![Change::RebootPlanned { at: earlier }])
                .map_err(|error: LogError| io("the restart", error))?;
            pc.planned.notify_one();
            Ok(())
        })
        .await
    }

    async fn call_off_reboot(&self, run: Run) -> Result<()> {
        self.effect(run, "call_off_reboot", String::new(), async move |pc: Arc<Pc>| {
            let (planned, owed) = pc.state(|state| (state.reboot_planned, !state.reboot_reasons.is_empty()));
            if planned.is_none() {
                return failed("calling off the restart", NO_SHUTDOWN_IN_PROGRESS, "no restart is planned");
            }
            // What Windows itself needs it plans anew.
            let next = owed.then(|| pc.clock.now() + WINDOWS_PLANS_WITHIN);
            pc.commit(&mut pc.inner(), vec![Change::RebootCalledOff { next }])
                .map_err(|error: LogError| io("the restart", error))?;
            pc.planned.notify_one();
            Ok(())
        })
        .await
    }

    async fn reset_pc(&self, _run: Run, _reset: &ResetPc) -> Result<()> {
        self.alive().await;
        unavailable("the reset of this PC", "the reset feature is not installed")
    }
}
