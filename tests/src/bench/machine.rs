//! What Linux says of a process: CPU time and resident memory.

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// User and system time of a process so far, in microseconds (clock ticks of 10 ms).
pub fn cpu_us(pid: u32) -> anyhow::Result<u64> {
    const TICK_US: u64 = 10_000;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("reading the CPU time")?;
    let after_name = stat.rsplit_once(')').context("unknown form of /proc/PID/stat")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).context("no CPU time");
    Ok((ticks(11)? + ticks(12)?) * TICK_US)
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("reading the memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Raises the soft limit of open files to the hard one, for this process and its children.
pub fn raise_open_files() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}
