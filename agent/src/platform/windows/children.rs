//! Programs of Windows run as children: absolute paths, arguments one by one, no console, no input, a small environment,
//! output with a bound. Waiting ends after a time; the child never does.
//!
//! A servicing tool that is killed leaves an image nobody knows the state of, so nothing here kills.

use std::{
    io::Read,
    os::windows::{io::AsRawHandle as _, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use windows::{
    Win32::{
        Foundation::HANDLE,
        System::{
            JobObjects::{
                AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_BREAKAWAY_OK,
                JOB_OBJECT_LIMIT_DIE_ON_UNHANDLED_EXCEPTION, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
                JobObjectExtendedLimitInformation, SetInformationJobObject,
            },
            Threading::{BELOW_NORMAL_PRIORITY_CLASS, CREATE_NO_WINDOW},
        },
    },
    core::PCWSTR,
};

use super::{
    error::unavailable,
    files::{system_folder, windows_folder},
    handles::Handle,
};
use crate::platform::{Exit, PlatformError, Program, Result};

/// Last bytes of output that are kept: tools say at their end what became of it.
const OUTPUT: usize = 1024 * 1024;
const LOOK: Duration = Duration::from_millis(100);
/// A grandchild may hold the output open: it is waited for no longer than this.
const OUTPUT_AFTER_END: Duration = Duration::from_secs(5);

/// Runs to its end, or gives `TimedOut` and leaves it running.
pub(super) fn run(program: Program, args: &[String], limit: Duration) -> Result<Exit> {
    let (path, first) = location(program)?;
    let what = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let io = |source| PlatformError::Io { what: format!("running {}", path.display()), source };
    let mut command = Command::new(&path);
    command.args(first).args(args).env_clear().envs(environment()).current_dir(system_folder());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.creation_flags(CREATE_NO_WINDOW.0 | BELOW_NORMAL_PRIORITY_CLASS.0);
    let mut child = command.spawn().map_err(io)?;
    let job = in_job(&child);
    if let Err(error) = &job {
        tracing::debug!(program = what, %error, "child runs outside a job object");
    }
    let (output, reader) = collect(&mut child);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io)? {
            break status;
        }
        if begun.elapsed() >= limit {
            return Err(PlatformError::TimedOut { what, limit });
        }
        thread::sleep(LOOK.min(limit));
    };
    let ended = Instant::now();
    while !reader.is_finished() && ended.elapsed() < OUTPUT_AFTER_END {
        thread::sleep(Duration::from_millis(10));
    }
    let stdout = output.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Exit { code: status.code().unwrap_or(-1), stdout })
}

/// Where the program is, and arguments that always come first.
fn location(program: Program) -> Result<(PathBuf, Vec<String>)> {
    let name = match program {
        Program::Dism => "Dism.exe",
        Program::Sfc => "sfc.exe",
        Program::Wusa => "wusa.exe",
        Program::PnpUtil => "pnputil.exe",
        Program::RegSvr32 => "regsvr32.exe",
        Program::Netsh => "netsh.exe",
        Program::UsoClient => "UsoClient.exe",
        Program::W32tm => "w32tm.exe",
        Program::TroubleshootingPack => return troubleshooting_pack(),
        Program::SetupMedia => return Err(unavailable("setup.exe", "no repair media can be mounted by this version")),
    };
    let path = system_folder().join(name);
    if path.is_file() { Ok((path, Vec::new())) } else { Err(unavailable(name, "this Windows does not have it")) }
}

/// Windows 10 and early Windows 11 only. The pack has no documented exit codes.
fn troubleshooting_pack() -> Result<(PathBuf, Vec<String>)> {
    let pack = windows_folder().join(r"diagnostics\system\WindowsUpdate");
    let shell = system_folder().join(r"WindowsPowerShell\v1.0\powershell.exe");
    if !pack.is_dir() || !shell.is_file() {
        return Err(unavailable("the Windows Update troubleshooter", "this Windows has no pack for it"));
    }
    // Both paths come from the system, and a quote cannot be part of one.
    let script = format!(
        "Import-Module TroubleshootingPack; Get-TroubleshootingPack -Path '{}' | Invoke-TroubleshootingPack -Unattended",
        pack.display()
    );
    let args = ["-NoProfile", "-NonInteractive", "-ExecutionPolicy", "AllSigned", "-Command", &script];
    Ok((shell, args.map(str::to_owned).to_vec()))
}

/// What Windows' own tools need to find their files; nothing else of ours is handed on.
fn environment() -> Vec<(&'static str, String)> {
    let windows = windows_folder();
    let system = system_folder().display().to_string();
    let mut environment = vec![
        ("SystemRoot", windows.display().to_string()),
        ("windir", windows.display().to_string()),
        ("PATH", system),
        ("TEMP", windows.join("Temp").display().to_string()),
        ("TMP", windows.join("Temp").display().to_string()),
    ];
    if let Some(drive) = windows.components().next() {
        environment.push(("SystemDrive", drive.as_os_str().to_string_lossy().into_owned()));
    }
    for name in ["ProgramData", "ProgramFiles", "CommonProgramFiles", "PROCESSOR_ARCHITECTURE", "COMPUTERNAME"] {
        if let Ok(value) = std::env::var(name) {
            environment.push((name, value));
        }
    }
    environment
}

/// A job without a limit that ends anything: a crash in it shows no dialog that nobody would ever close.
fn in_job(child: &Child) -> windows::core::Result<Handle> {
    let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
    limits.BasicLimitInformation.LimitFlags =
        JOB_OBJECT_LIMIT_DIE_ON_UNHANDLED_EXCEPTION | JOB_OBJECT_LIMIT_BREAKAWAY_OK;
    let length = u32::try_from(size_of_val(&limits)).unwrap_or_default();
    // SAFETY: `limits` is the structure of this class; the child's handle is open while `child` lives.
    unsafe {
        let job = Handle(CreateJobObjectW(None, PCWSTR::null())?);
        SetInformationJobObject(job.0, JobObjectExtendedLimitInformation, (&raw const limits).cast(), length)?;
        AssignProcessToJobObject(job.0, HANDLE(child.as_raw_handle()))?;
        Ok(job)
    }
}

type Output = Arc<Mutex<Vec<u8>>>;

/// Reads to the end of the child's output, also when nobody waits any more: a full pipe would stop the child.
fn collect(child: &mut Child) -> (Output, thread::JoinHandle<()>) {
    let output = Output::default();
    let into = Arc::clone(&output);
    let stdout = child.stdout.take();
    let reader = thread::spawn(move || {
        let Some(mut stdout) = stdout else { return };
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
            if kept.len() > 2 * OUTPUT {
                // An even number: SFC writes two bytes a letter.
                let surplus = (kept.len() - OUTPUT) & !1;
                kept.drain(..surplus);
            }
        }
    });
    (output, reader)
}
