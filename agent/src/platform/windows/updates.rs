//! Windows' update client (WUA) over COM: what is offered, what is installed, what replaces what, hiding, installing.
//!
//! Facts after Microsoft's WUA reference; none of it could be tried against a real update service here. Check on a PC:
//! `(New-Object -ComObject Microsoft.Update.Session).CreateUpdateSearcher().Search("IsInstalled=0").Updates` lists what
//! [`offers`] lists.

use std::time::Duration;

use fleetmend_proto::{HResult, Kb, UpdateKind, UpdateRef};
use uuid::Uuid;
use windows::{
    Win32::{
        Foundation::{VARIANT_FALSE, VARIANT_TRUE},
        System::{
            Com::{CLSCTX_INPROC_SERVER, CoCreateInstance},
            UpdateAgent::{
                IStringCollection, ISystemInformation, IUpdate, IUpdateCollection, IUpdateInstaller2, IUpdateSession,
                OperationResultCode, SystemInformation, UpdateCollection, UpdateSession, orcSucceeded,
                orcSucceededWithErrors, utDriver,
            },
        },
    },
    core::{BSTR, Interface as _},
};

use super::{
    com,
    error::{code, failed, unavailable},
};
use crate::{
    detect::naming::{clean_title, kb_of, kind_of},
    platform::{InstallAnswer, Offer, PlatformError, Result, Run},
};

/// Time for a search that goes online.
const SEARCH: Duration = Duration::from_secs(30 * 60);
/// Time for a search in what the client has stored.
const LOCAL_SEARCH: Duration = Duration::from_secs(10 * 60);
const INSTALL: Duration = Duration::from_secs(4 * 60 * 60);
const QUICK: Duration = Duration::from_secs(60);
/// `WU_E_NO_UPDATE`.
const NO_UPDATE: HResult = HResult(0x8024_0024);
const EVERYTHING: &str = "IsInstalled=0 or IsInstalled=1";

pub(super) async fn is_busy() -> Result<bool> {
    com::call("the update client", QUICK, || {
        let installer = asked("the update client's installer", || unsafe { session(None)?.CreateUpdateInstaller() })?;
        asked("the state of the update client", || unsafe { installer.IsBusy() }).map(|it| it.as_bool())
    })
    .await
}

/// `ISystemInformation.RebootRequired`.
pub(super) async fn is_reboot_required() -> Result<bool> {
    com::call("the update client's restart flag", QUICK, || {
        asked("the update client's restart flag", || unsafe {
            let information: ISystemInformation = CoCreateInstance(&SystemInformation, None, CLSCTX_INPROC_SERVER)?;
            information.RebootRequired()
        })
        .map(|it| it.as_bool())
    })
    .await
}

/// Online search for what is offered and not installed, hidden ones included.
pub(super) async fn offers(run: Run) -> Result<Vec<Offer>> {
    com::call("the search for updates", SEARCH, move || {
        let found = search(Some(run), "IsInstalled=0", true)?;
        each(&found)?.iter().map(offer).collect()
    })
    .await
}

/// Whether the update, or one that replaces it, is installed.
pub(super) async fn is_installed(update: &UpdateRef) -> Result<bool> {
    let wanted = update.clone();
    com::call("the installed updates", LOCAL_SEARCH, move || {
        let found = search(None, "IsInstalled=1", false)?;
        for update in each(&found)? {
            if reference(&update)?.satisfies(&wanted) {
                return Ok(true);
            }
        }
        Ok(false)
    })
    .await
}

/// Ids of the updates that this one replaces, from what the client has stored.
pub(super) async fn supersedes(update: &UpdateRef) -> Result<Vec<Uuid>> {
    let wanted = update.clone();
    com::call("the replaced updates", LOCAL_SEARCH, move || {
        let found = search(None, EVERYTHING, false)?;
        for update in each(&found)? {
            let known = reference(&update)?;
            if known.is_same(&wanted) {
                return Ok(known.supersedes);
            }
        }
        Err(unavailable("the replaced updates", "the update client does not know this update"))
    })
    .await
}

pub(super) async fn set_hidden(run: Run, update: &UpdateRef, hidden: bool) -> Result<()> {
    let wanted = update.clone();
    com::call("hiding an update", SEARCH, move || {
        let update = find(run, &wanted)?;
        let hidden = if hidden { VARIANT_TRUE } else { VARIANT_FALSE };
        asked("hiding an update", || unsafe { update.SetIsHidden(hidden) })
    })
    .await
}

/// Downloads and installs one offered update; a failed install is an answer.
pub(super) async fn install(run: Run, update: &UpdateRef) -> Result<InstallAnswer> {
    let wanted = update.clone();
    com::call("installing an update", INSTALL, move || install_found(run, &find(run, &wanted)?)).await
}

fn install_found(run: Run, update: &IUpdate) -> Result<InstallAnswer> {
    let what = "installing an update";
    let eula = asked(what, || unsafe { update.EulaAccepted() })?.as_bool();
    if !eula {
        return Err(unavailable(what, "its licence terms must be accepted by a person first"));
    }
    let asks = asked(what, || unsafe { update.InstallationBehavior()?.CanRequestUserInput() })?.as_bool();
    if asks {
        return Err(unavailable(what, "it asks the user questions: install it by hand"));
    }
    let session = asked(what, || session(Some(run)))?;
    let updates: IUpdateCollection = asked(what, || unsafe {
        let updates: IUpdateCollection = CoCreateInstance(&UpdateCollection, None, CLSCTX_INPROC_SERVER)?;
        updates.Add(update)?;
        Ok(updates)
    })?;
    let failure = |error: PlatformError| match error {
        // What WUA answers to an install is the outcome that is asked for.
        PlatformError::Failed { code, .. } => Ok(InstallAnswer { code, reboot_required: false }),
        other @ (PlatformError::Unavailable { .. } | PlatformError::TimedOut { .. } | PlatformError::Io { .. }) => {
            Err(other)
        }
    };
    let downloaded = asked("downloading an update", || unsafe {
        let downloader = session.CreateUpdateDownloader()?;
        downloader.SetUpdates(&updates)?;
        let result = downloader.Download()?;
        let one = result.GetUpdateResult(0)?;
        Ok(answer(one.ResultCode()?, one.HResult()?))
    });
    match downloaded {
        Ok(HResult::OK) => {}
        Ok(code) => return Ok(InstallAnswer { code, reboot_required: false }),
        Err(error) => return failure(error),
    }
    let installed = asked(what, || unsafe {
        let installer = session.CreateUpdateInstaller()?;
        if let Ok(quiet) = installer.cast::<IUpdateInstaller2>() {
            quiet.SetForceQuiet(VARIANT_TRUE)?;
        }
        installer.SetUpdates(&updates)?;
        let result = installer.Install()?;
        let one = result.GetUpdateResult(0)?;
        let code = answer(one.ResultCode()?, one.HResult()?);
        Ok(InstallAnswer { code, reboot_required: one.RebootRequired()?.as_bool() })
    });
    installed.or_else(failure)
}

/// Success is no code, whatever HRESULT goes with it; a failure without a code is "unspecified".
fn answer(result: OperationResultCode, hresult: i32) -> HResult {
    let code = HResult(hresult.cast_unsigned());
    if result == orcSucceeded || result == orcSucceededWithErrors && !code.is_failure() {
        HResult::OK
    } else if code == HResult::OK {
        HResult(0x8000_4005)
    } else {
        code
    }
}

/// The offered update itself rather than one that replaces it.
fn find(run: Run, wanted: &UpdateRef) -> Result<IUpdate> {
    let criteria = match wanted.update_id {
        Some(id) => format!("UpdateID='{id}' and IsInstalled=0"),
        None => "IsInstalled=0".to_owned(),
    };
    let found = search(Some(run), &criteria, true)?;
    for update in each(&found)? {
        if reference(&update)?.is_same(wanted) {
            return Ok(update);
        }
    }
    let why = "it is not offered any more".to_owned();
    Err(PlatformError::Failed { what: "finding the update".to_owned(), code: NO_UPDATE, why })
}

/// Leaves the choice of the update service to Windows' own policy.
fn search(run: Option<Run>, criteria: &str, online: bool) -> Result<IUpdateCollection> {
    asked("the search for updates", || unsafe {
        let searcher = session(run)?.CreateUpdateSearcher()?;
        searcher.SetOnline(if online { VARIANT_TRUE } else { VARIANT_FALSE })?;
        searcher.Search(&BSTR::from(criteria))?.Updates()
    })
}

/// Called in a COM apartment only.
pub(super) fn session(run: Option<Run>) -> windows::core::Result<IUpdateSession> {
    // SAFETY: the thread is in an apartment (`com::call`).
    unsafe {
        let session: IUpdateSession = CoCreateInstance(&UpdateSession, None, CLSCTX_INPROC_SERVER)?;
        // Shown in the update history as who asked; a client that takes no name works without.
        let client = run.map_or_else(|| "fleetmend-agent".to_owned(), |run| format!("fleetmend-agent {}", run.order));
        let _ = session.SetClientApplicationID(&BSTR::from(client));
        Ok(session)
    }
}

fn each(updates: &IUpdateCollection) -> Result<Vec<IUpdate>> {
    asked("the list of updates", || unsafe { (0..updates.Count()?).map(|index| updates.get_Item(index)).collect() })
}

fn offer(update: &IUpdate) -> Result<Offer> {
    let flags = asked("an offered update", || unsafe { Ok((update.IsHidden()?, update.IsMandatory()?)) })?;
    Ok(Offer { update: reference(update)?, hidden: flags.0.as_bool(), mandatory: flags.1.as_bool() })
}

fn reference(update: &IUpdate) -> Result<UpdateRef> {
    asked("an update", || unsafe {
        let identity = update.Identity()?;
        let title = clean_title(&update.Title()?.to_string());
        let articles = texts(&update.KBArticleIDs()?)?;
        let kb = articles.iter().find_map(|it| it.parse::<Kb>().ok()).or_else(|| kb_of(&title));
        let kind = if update.Type()? == utDriver { UpdateKind::Driver } else { kind_of(&title, kb, None) };
        let supersedes = texts(&update.SupersededUpdateIDs()?)?;
        Ok(UpdateRef {
            update_id: Uuid::try_parse(&identity.UpdateID()?.to_string()).ok(),
            revision: identity.RevisionNumber()?,
            kb,
            title,
            kind,
            supersedes: supersedes.iter().filter_map(|it| Uuid::try_parse(it).ok()).collect(),
        })
    })
}

fn texts(collection: &IStringCollection) -> windows::core::Result<Vec<String>> {
    // SAFETY: plain COM calls on an object that is alive.
    unsafe { (0..collection.Count()?).map(|index| collection.get_Item(index).map(|it| it.to_string())).collect() }
}

/// COM's errors as the platform's. 0x80070422 ("the service is disabled") is a failure with that code.
fn asked<T>(what: &str, work: impl FnOnce() -> windows::core::Result<T>) -> Result<T> {
    work().map_err(|error| {
        tracing::debug!(what, code = %code(&error), "the update client answered with an error");
        failed(what, &error)
    })
}
