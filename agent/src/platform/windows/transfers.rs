//! Failed transfers of the update client in BITS. Jobs of other products and other accounts are never touched.
//!
//! Not tried on real Windows: that the update client names its jobs so. Check: `bitsadmin /list /allusers` during a download.

use std::time::Duration;

use windows::{
    Win32::{
        Networking::BackgroundIntelligentTransferService::{
            BG_JOB_ENUM_ALL_USERS, BG_JOB_STATE_ERROR, BG_JOB_STATE_TRANSIENT_ERROR, BackgroundCopyManager,
            IBackgroundCopyJob, IBackgroundCopyManager,
        },
        System::Com::{CLSCTX_LOCAL_SERVER, CoCreateInstance, CoTaskMemFree},
    },
    core::PWSTR,
};

use super::{com, error::failed};
use crate::platform::Result;

const CLIENT: &str = "WU Client Download";
const SYSTEM: &str = "S-1-5-18";
const LIMIT: Duration = Duration::from_secs(120);

/// Cancels the update client's own failed transfers and counts them.
pub(super) async fn cancel_failed() -> Result<u32> {
    com::call("the transfer service", LIMIT, || cancel().map_err(|error| failed("the transfer service", &error))).await
}

fn cancel() -> windows::core::Result<u32> {
    let mut cancelled = 0;
    // SAFETY: the thread is in an apartment; the objects are alive while they are used.
    unsafe {
        let manager: IBackgroundCopyManager = CoCreateInstance(&BackgroundCopyManager, None, CLSCTX_LOCAL_SERVER)?;
        let jobs = manager.EnumJobs(BG_JOB_ENUM_ALL_USERS)?;
        for _ in 0..jobs.GetCount()? {
            let mut next = [None];
            jobs.Next(&mut next, std::ptr::null_mut())?;
            let [Some(job)] = next else { break };
            if is_failed_update(&job)? {
                job.Cancel()?;
                cancelled += 1;
            }
        }
    }
    Ok(cancelled)
}

/// # Safety
/// Called in an apartment.
unsafe fn is_failed_update(job: &IBackgroundCopyJob) -> windows::core::Result<bool> {
    // SAFETY: the caller's; texts are copied and freed.
    unsafe {
        let state = job.GetState()?;
        if state != BG_JOB_STATE_ERROR && state != BG_JOB_STATE_TRANSIENT_ERROR {
            return Ok(false);
        }
        Ok(owned(job.GetOwner()?) == SYSTEM && owned(job.GetDisplayName()?) == CLIENT)
    }
}

/// # Safety
/// `text` was allocated by COM for the caller, and is used no more.
unsafe fn owned(text: PWSTR) -> String {
    // SAFETY: the caller's.
    unsafe {
        let owned = text.to_string().unwrap_or_default();
        CoTaskMemFree(Some(text.0.cast()));
        owned
    }
}
