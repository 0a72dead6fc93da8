//! The service control manager: how a service is, its start type, starting and stopping it. Blocking.
//!
//! Nothing here ends a process: a service that does not stop is reported, never killed.

use std::{
    thread,
    time::{Duration, Instant},
};

use fleetmend_proto::HResult;
use windows::{
    Win32::{
        Foundation::{
            ERROR_INVALID_NAME, ERROR_SERVICE_ALREADY_RUNNING, ERROR_SERVICE_CANNOT_ACCEPT_CTRL,
            ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_NOT_ACTIVE,
        },
        System::Services::{
            ChangeServiceConfig2W, ChangeServiceConfigW, CloseServiceHandle, ControlService, ENUM_SERVICE_TYPE,
            OpenSCManagerW, OpenServiceW, QUERY_SERVICE_CONFIGW, QueryServiceConfig2W, QueryServiceConfigW,
            QueryServiceStatusEx, SC_HANDLE, SC_MANAGER_CONNECT, SC_STATUS_PROCESS_INFO, SERVICE_AUTO_START,
            SERVICE_CHANGE_CONFIG, SERVICE_CONFIG_DELAYED_AUTO_START_INFO, SERVICE_CONTINUE_PENDING,
            SERVICE_CONTROL_STOP, SERVICE_DELAYED_AUTO_START_INFO, SERVICE_DEMAND_START, SERVICE_DISABLED,
            SERVICE_ERROR, SERVICE_NO_CHANGE, SERVICE_QUERY_CONFIG, SERVICE_QUERY_STATUS, SERVICE_START,
            SERVICE_START_PENDING, SERVICE_STATUS, SERVICE_STATUS_PROCESS, SERVICE_STOP, SERVICE_STOP_PENDING,
            SERVICE_STOPPED, StartServiceW,
        },
    },
    core::{Error, HSTRING, PCWSTR},
};

use super::error::failed;
use crate::platform::{PlatformError, Result, Service, ServiceState, StartType};

/// Time one service may take to start.
const START_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

/// Closed when dropped.
struct Handle(SC_HANDLE);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and is closed once.
        let _ = unsafe { CloseServiceHandle(self.0) };
    }
}

/// `Ok(None)`: no such service.
pub(super) fn service(name: &str) -> Result<Option<Service>> {
    let Some(service) = open(name, SERVICE_QUERY_CONFIG | SERVICE_QUERY_STATUS)? else { return Ok(None) };
    let status = status(&service, name)?;
    Ok(Some(Service { start_type: start_type(&service, name)?, state: state(&status) }))
}

pub(super) fn set_start_type(name: &str, start: StartType) -> Result<()> {
    let service = existing(name, SERVICE_CHANGE_CONFIG | SERVICE_QUERY_CONFIG)?;
    let raw = match start {
        StartType::Automatic | StartType::AutomaticDelayed => SERVICE_AUTO_START,
        StartType::Manual => SERVICE_DEMAND_START,
        StartType::Disabled => SERVICE_DISABLED,
    };
    // SAFETY: the handle is open; null texts leave what they stand for unchanged.
    unsafe {
        ChangeServiceConfigW(
            service.0,
            ENUM_SERVICE_TYPE(SERVICE_NO_CHANGE),
            raw,
            SERVICE_ERROR(SERVICE_NO_CHANGE),
            PCWSTR::null(),
            PCWSTR::null(),
            None,
            PCWSTR::null(),
            PCWSTR::null(),
            PCWSTR::null(),
            PCWSTR::null(),
        )
    }
    .map_err(|error| failed(format!("setting the start type of service {name}"), &error))?;
    let delayed = match start {
        StartType::Automatic => false,
        StartType::AutomaticDelayed => true,
        StartType::Manual | StartType::Disabled => return Ok(()),
    };
    if is_delayed(&service) == delayed {
        return Ok(());
    }
    let info = SERVICE_DELAYED_AUTO_START_INFO { fDelayedAutostart: delayed.into() };
    let info = std::ptr::from_ref(&info).cast();
    // SAFETY: `info` points to the structure that this level wants.
    unsafe { ChangeServiceConfig2W(service.0, SERVICE_CONFIG_DELAYED_AUTO_START_INFO, Some(info)) }
        .map_err(|error| failed(format!("setting the delayed start of service {name}"), &error))
}

/// Returns when the service runs.
pub(super) fn start_service(name: &str) -> Result<()> {
    let what = || format!("starting service {name}");
    let service = existing(name, SERVICE_START | SERVICE_QUERY_STATUS)?;
    // SAFETY: the handle is open.
    match unsafe { StartServiceW(service.0, None) } {
        Err(error) if error.code() != ERROR_SERVICE_ALREADY_RUNNING.to_hresult() => return Err(failed(what(), &error)),
        Ok(()) | Err(_) => {}
    }
    let begun = Instant::now();
    loop {
        let status = status(&service, name)?;
        match state(&status) {
            ServiceState::Running => return Ok(()),
            ServiceState::Stopped => {
                let win32 = u16::try_from(status.dwWin32ExitCode).unwrap_or(u16::MAX);
                let why = "it ended at once".to_owned();
                return Err(PlatformError::Failed { what: what(), code: HResult::from_win32(win32), why });
            }
            ServiceState::StartPending | ServiceState::StopPending => {}
        }
        if begun.elapsed() >= START_WITHIN {
            return Err(PlatformError::TimedOut { what: what(), limit: START_WITHIN });
        }
        thread::sleep(LOOK);
    }
}

/// Returns when the service is stopped; `TimedOut` while it is still stopping after `limit`.
pub(super) fn stop_service(name: &str, limit: Duration) -> Result<()> {
    let what = || format!("stopping service {name}");
    let service = existing(name, SERVICE_STOP | SERVICE_QUERY_STATUS)?;
    let begun = Instant::now();
    loop {
        match state(&status(&service, name)?) {
            ServiceState::Stopped => return Ok(()),
            // Asked once more: one that was just starting takes no control before it runs.
            ServiceState::Running | ServiceState::StartPending => ask_to_stop(&service, name)?,
            ServiceState::StopPending => {}
        }
        if begun.elapsed() >= limit {
            return Err(PlatformError::TimedOut { what: what(), limit });
        }
        thread::sleep(LOOK.min(limit));
    }
}

fn ask_to_stop(service: &Handle, name: &str) -> Result<()> {
    let mut answer = SERVICE_STATUS::default();
    // SAFETY: the handle is open, `answer` is writable.
    match unsafe { ControlService(service.0, SERVICE_CONTROL_STOP, &raw mut answer) } {
        Ok(()) => Ok(()),
        Err(error)
            if error.code() == ERROR_SERVICE_NOT_ACTIVE.to_hresult()
                || error.code() == ERROR_SERVICE_CANNOT_ACCEPT_CTRL.to_hresult() =>
        {
            Ok(())
        }
        Err(error) => Err(failed(format!("stopping service {name}"), &error)),
    }
}

fn existing(name: &str, access: u32) -> Result<Handle> {
    open(name, access)?
        .ok_or_else(|| failed(format!("service {name}"), &ERROR_SERVICE_DOES_NOT_EXIST.to_hresult().into()))
}

fn open(name: &str, access: u32) -> Result<Option<Handle>> {
    // SAFETY: null names mean this machine and its active database.
    let manager = unsafe { OpenSCManagerW(PCWSTR::null(), PCWSTR::null(), SC_MANAGER_CONNECT) }
        .map_err(|error| failed("the service control manager", &error))?;
    let manager = Handle(manager);
    // SAFETY: the manager is open, the name ends with a zero.
    match unsafe { OpenServiceW(manager.0, &HSTRING::from(name), access) } {
        Ok(service) => Ok(Some(Handle(service))),
        Err(error) if is_no_service(&error) => Ok(None),
        Err(error) => Err(failed(format!("service {name}"), &error)),
    }
}

fn is_no_service(error: &Error) -> bool {
    [ERROR_SERVICE_DOES_NOT_EXIST, ERROR_INVALID_NAME].iter().any(|it| error.code() == it.to_hresult())
}

fn status(service: &Handle, name: &str) -> Result<SERVICE_STATUS_PROCESS> {
    let mut status = SERVICE_STATUS_PROCESS::default();
    let mut needed = 0;
    // SAFETY: the slice covers exactly `status`, which is plain data.
    unsafe {
        let bytes = std::slice::from_raw_parts_mut((&raw mut status).cast::<u8>(), size_of::<SERVICE_STATUS_PROCESS>());
        QueryServiceStatusEx(service.0, SC_STATUS_PROCESS_INFO, Some(bytes), &raw mut needed)
    }
    .map_err(|error| failed(format!("the state of service {name}"), &error))?;
    Ok(status)
}

fn state(status: &SERVICE_STATUS_PROCESS) -> ServiceState {
    let now = status.dwCurrentState;
    if now == SERVICE_STOPPED {
        ServiceState::Stopped
    } else if now == SERVICE_STOP_PENDING {
        ServiceState::StopPending
    } else if now == SERVICE_START_PENDING || now == SERVICE_CONTINUE_PENDING {
        ServiceState::StartPending
    } else {
        // Paused ones too: their process is there and holds its files.
        ServiceState::Running
    }
}

fn start_type(service: &Handle, name: &str) -> Result<StartType> {
    // The structure and the texts it points into; no configuration is longer than 8 KiB.
    let mut buffer = vec![0u64; 1024];
    let config: *mut QUERY_SERVICE_CONFIGW = buffer.as_mut_ptr().cast();
    let mut needed = 0;
    // SAFETY: the buffer is as long as said, aligned for the structure, and outlives the read below.
    let raw = unsafe {
        QueryServiceConfigW(service.0, Some(config), 8192, &raw mut needed)
            .map_err(|error| failed(format!("the configuration of service {name}"), &error))?;
        (*config).dwStartType
    };
    Ok(if raw == SERVICE_DISABLED {
        StartType::Disabled
    } else if raw == SERVICE_DEMAND_START {
        StartType::Manual
    } else if is_delayed(service) {
        StartType::AutomaticDelayed
    } else {
        StartType::Automatic
    })
}

/// A service whose answer cannot be read counts as not delayed: nothing depends on the difference.
fn is_delayed(service: &Handle) -> bool {
    let mut buffer = [0u8; 64];
    let mut needed = 0;
    // SAFETY: the buffer is longer than the structure of this level, whose one field is a 32-bit truth value.
    let read = unsafe {
        QueryServiceConfig2W(service.0, SERVICE_CONFIG_DELAYED_AUTO_START_INFO, Some(&mut buffer), &raw mut needed)
    };
    read.is_ok() && buffer.iter().take(4).any(|byte| *byte != 0)
}
