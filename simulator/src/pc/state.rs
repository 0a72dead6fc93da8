//! The truth about a simulated PC. It is nothing but the changes of its log, applied in order: `apply` is the only
//! writer.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use fleetmend_agent::platform::{Service, ServiceState};
use fleetmend_proto::{HResult, UpdateRef};
use uuid::Uuid;

use super::change::{Attempt, Change, Fault, Flaw, Offered, Place, Start};

/// Services of Windows that matter here and their default start types.
pub const SERVICES: &[(&str, Start)] = &[
    ("wuauserv", Start::Manual),
    ("bits", Start::Manual),
    ("cryptsvc", Start::Automatic),
    ("UsoSvc", Start::AutomaticDelayed),
    ("DoSvc", Start::AutomaticDelayed),
    ("TrustedInstaller", Start::Manual),
    ("msiserver", Start::Manual),
    ("wlidsvc", Start::Manual),
    ("appidsvc", Start::Manual),
    ("w32time", Start::Manual),
    ("EventSystem", Start::Automatic),
    ("RpcSs", Start::Automatic),
    ("mpssvc", Start::Automatic),
];

/// A full disk has this much left.
pub const FULL: u64 = 300 << 20;
/// An empty enough one this much.
pub const ROOMY: u64 = 80 << 30;

/// A service as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceTruth {
    pub start: Start,
    pub state: ServiceState,
}

/// A folder, in place (`suffix` = `None`) or set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderTruth {
    pub place: Place,
    pub suffix: Option<String>,
    pub corrupt: bool,
}

/// The truth.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub boot: u64,
    pub instance: u64,
    pub first_boot: Option<DateTime<Utc>>,
    pub last_boot: Option<DateTime<Utc>>,
    pub services: BTreeMap<String, ServiceTruth>,
    pub folders: Vec<FolderTruth>,
    pub store_corrupt: bool,
    pub store_repairable: bool,
    pub system_files_corrupt: bool,
    pub disk_full: bool,
    pub disk_leftovers: bool,
    pub disk_dying: bool,
    pub network_down_until: Option<DateTime<Utc>>,
    pub reboot_reasons: BTreeSet<String>,
    pub reboot_planned: Option<DateTime<Utc>>,
    pub registry: BTreeMap<(String, String), String>,
    pub failed_transfers: u32,
    pub offers: Vec<Offered>,
    pub installed: Vec<UpdateRef>,
    /// How many updates have arrived.
    pub arrived: u32,
    /// Install attempts that Windows noted, oldest first.
    pub attempts: u64,
    /// Boots and agent starts survive; programs that ran do not.
    pub dirty_starts: u64,
}

impl Default for State {
    /// A healthy PC that is switched off.
    fn default() -> Self {
        let stopped = |start| ServiceTruth { start, state: ServiceState::Stopped };
        let in_place = |place| FolderTruth { place, suffix: None, corrupt: false };
        Self {
            boot: 0,
            instance: 0,
            first_boot: None,
            last_boot: None,
            services: SERVICES.iter().map(|(name, start)| ((*name).to_owned(), stopped(*start))).collect(),
            folders: [Place::DataStore, Place::Download, Place::Catroot2].map(in_place).to_vec(),
            store_corrupt: false,
            store_repairable: true,
            system_files_corrupt: false,
            disk_full: false,
            disk_leftovers: false,
            disk_dying: false,
            network_down_until: None,
            reboot_reasons: BTreeSet::new(),
            reboot_planned: None,
            registry: BTreeMap::new(),
            failed_transfers: 0,
            offers: Vec::new(),
            installed: Vec::new(),
            arrived: 0,
            attempts: 0,
            dirty_starts: 0,
        }
    }
}

impl State {
    /// Applies one change. Never fails: the log is the truth.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Booted { at, boot, clean } => self.boot(*at, *boot, *clean),
            Change::AgentStarted { instance } => self.instance = *instance,
            Change::Arrived { number, offered, faults } => {
                self.arrived = number + 1;
                self.offers.push((**offered).clone());
                faults.iter().for_each(|fault| self.inject(fault));
            }
            Change::Replaced { offered } => self.offers.push((**offered).clone()),
            Change::StartTypeSet { name, start } => {
                if let Some(service) = self.service_mut(name) {
                    service.start = *start;
                }
            }
            Change::ServiceStarted { name } => self.service_started(name),
            Change::ServiceStopping { name } => self.set_service(name, ServiceState::StopPending),
            Change::ServiceStopped { name } => self.set_service(name, ServiceState::Stopped),
            Change::SetAside { place, suffix } => self.rename(*place, None, Some(suffix.clone())),
            Change::PutBack { place, suffix } => {
                self.rename(*place, None, Some(format!("{suffix}.new")));
                self.rename(*place, Some(suffix), None);
            }
            Change::StoreRepaired => self.store_corrupt = false,
            Change::SystemFilesRepaired => self.system_files_corrupt = false,
            Change::LeftoversRemoved => {
                self.disk_full &= !self.disk_leftovers;
                self.disk_leftovers = false;
            }
            Change::RegistrySet { key, value, data } => {
                let name = (key.to_ascii_lowercase(), value.to_ascii_lowercase());
                match data {
                    Some(data) => drop(self.registry.insert(name, data.clone())),
                    None => drop(self.registry.remove(&name)),
                }
            }
            Change::HiddenSet { update_id, hidden } => {
                self.offers_of(*update_id).for_each(|offer| offer.hidden = *hidden);
            }
            Change::TransfersCancelled => self.failed_transfers = 0,
            Change::Tried { attempt } => self.note(attempt),
            Change::FlawSpent { update_id } => self.offers_of(*update_id).for_each(|offer| {
                if let Flaw::Transient(left) = offer.flaw {
                    offer.flaw = if left > 1 { Flaw::Transient(left - 1) } else { Flaw::None };
                }
            }),
            Change::RebootPlanned { at } => self.reboot_planned = Some(*at),
            Change::RebootCalledOff { next } => self.reboot_planned = *next,
        }
    }

    /// The offer of an update, if it is offered and not installed.
    #[must_use]
    pub fn offer(&self, update: &UpdateRef) -> Option<&Offered> {
        self.offers.iter().find(|offer| offer.update.is_same(update))
    }

    /// Whether the update, or one that replaces it, is installed.
    #[must_use]
    pub fn is_installed(&self, update: &UpdateRef) -> bool {
        self.installed.iter().any(|installed| installed.satisfies(update))
    }

    #[must_use]
    pub fn is_disabled(&self, service: &str) -> bool {
        self.service(service).is_none_or(|truth| truth.start == Start::Disabled)
    }

    /// The services that were asked to stop and have not stopped yet.
    #[must_use]
    pub fn stopping(&self) -> Vec<String> {
        let stopping = self.services.iter().filter(|(_, truth)| truth.state == ServiceState::StopPending);
        stopping.map(|(name, _)| name.clone()).collect()
    }

    /// Whether nothing can use a service: it is disabled, or does not run although Windows keeps it running.
    #[must_use]
    pub fn is_down(&self, service: &str) -> bool {
        let kept_running = |start| matches!(start, Start::Automatic | Start::AutomaticDelayed);
        self.is_disabled(service)
            || self
                .service(service)
                .is_some_and(|truth| kept_running(truth.start) && truth.state != ServiceState::Running)
    }

    /// Names of services are not case-sensitive.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<ServiceTruth> {
        self.services.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, truth)| *truth)
    }

    /// The folder in place, or the one set aside under a suffix.
    #[must_use]
    pub fn folder(&self, place: Place, suffix: Option<&str>) -> Option<&FolderTruth> {
        self.folders.iter().find(|folder| folder.place == place && folder.suffix.as_deref() == suffix)
    }

    #[must_use]
    pub fn is_corrupt(&self, place: Place) -> bool {
        self.folder(place, None).is_some_and(|folder| folder.corrupt)
    }

    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        if self.disk_full { FULL } else { ROOMY }
    }

    #[must_use]
    pub fn is_network_down(&self, now: DateTime<Utc>) -> bool {
        self.network_down_until.is_some_and(|until| now < until)
    }

    fn boot(&mut self, at: DateTime<Utc>, boot: u64, clean: bool) {
        self.boot = boot;
        self.first_boot.get_or_insert(at);
        self.last_boot = Some(at);
        self.dirty_starts += u64::from(!clean);
        self.reboot_reasons.clear();
        self.reboot_planned = None;
        for service in self.services.values_mut() {
            service.state = match service.start {
                Start::Automatic | Start::AutomaticDelayed => ServiceState::Running,
                Start::Manual | Start::Disabled => ServiceState::Stopped,
            };
        }
        if self.services.get("cryptsvc").is_some_and(|service| service.state == ServiceState::Running) {
            self.make_folder(Place::Catroot2);
        }
    }

    fn inject(&mut self, fault: &Fault) {
        match fault {
            Fault::StoreCorrupt { repairable } => {
                self.store_corrupt = true;
                self.system_files_corrupt = true;
                self.store_repairable &= repairable;
            }
            Fault::CacheCorrupt => self.corrupt(&[Place::DataStore, Place::Download]),
            Fault::CataloguesCorrupt => self.corrupt(&[Place::Catroot2]),
            Fault::ServiceDisabled { name } => {
                if let Some(service) = self.service_mut(name) {
                    *service = ServiceTruth { start: Start::Disabled, state: ServiceState::Stopped };
                }
            }
            Fault::NetworkDown { until } => {
                self.network_down_until = self.network_down_until.max(Some(*until));
                self.failed_transfers += 2;
            }
            Fault::DiskFilled { leftovers } => {
                self.disk_full = true;
                self.disk_leftovers = *leftovers;
            }
            Fault::RebootOwed { reason } => drop(self.reboot_reasons.insert(reason.clone())),
            Fault::DiskDying => self.disk_dying = true,
        }
    }

    fn corrupt(&mut self, places: &[Place]) {
        for place in places {
            self.make_folder(*place);
        }
        for folder in &mut self.folders {
            folder.corrupt |= folder.suffix.is_none() && places.contains(&folder.place);
        }
    }

    fn note(&mut self, attempt: &Attempt) {
        self.attempts += 1;
        if attempt.reboot_owed {
            self.reboot_reasons.insert("WindowsUpdate\\RebootRequired".to_owned());
        }
        for offer in self.offers.iter_mut().filter(|offer| offer.update.is_same(&attempt.update)) {
            offer.last_tried = Some(attempt.at);
            offer.pending = attempt.reboot_owed;
        }
        let failed = attempt.reported.is_failure() || attempt.servicing.is_some_and(HResult::is_failure);
        if !failed && !attempt.reboot_owed {
            // What the offer knows of the update is more than what an order that installed it knew.
            let known = self.offer(&attempt.update).map_or(&attempt.update, |offer| &offer.update).clone();
            self.offers.retain(|offer| !known.satisfies(&offer.update));
            if !self.is_installed(&known) {
                self.installed.push(known);
            }
        }
    }

    fn service_started(&mut self, name: &str) {
        self.set_service(name, ServiceState::Running);
        // A started service makes the folders that it misses.
        if name.eq_ignore_ascii_case("wuauserv") {
            self.make_folder(Place::DataStore);
            self.make_folder(Place::Download);
        } else if name.eq_ignore_ascii_case("cryptsvc") {
            self.make_folder(Place::Catroot2);
        }
    }

    fn make_folder(&mut self, place: Place) {
        if self.folder(place, None).is_none() {
            self.folders.push(FolderTruth { place, suffix: None, corrupt: false });
        }
    }

    fn rename(&mut self, place: Place, from: Option<&str>, to: Option<String>) {
        let found = self.folders.iter_mut().find(|it| it.place == place && it.suffix.as_deref() == from);
        if let Some(folder) = found {
            folder.suffix = to;
        }
    }

    fn set_service(&mut self, name: &str, state: ServiceState) {
        if let Some(service) = self.service_mut(name) {
            service.state = state;
        }
    }

    fn service_mut(&mut self, name: &str) -> Option<&mut ServiceTruth> {
        self.services.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, truth)| truth)
    }

    fn offers_of(&mut self, update_id: Uuid) -> impl Iterator<Item = &mut Offered> {
        self.offers.iter_mut().filter(move |offer| offer.update.update_id == Some(update_id))
    }
}

impl From<ServiceTruth> for Service {
    fn from(truth: ServiceTruth) -> Self {
        Self { start_type: truth.start.into(), state: truth.state }
    }
}
