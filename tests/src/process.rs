//! Real processes for the fault tests: start, watch, kill -9.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A binary of this workspace, built for the same profile as the test that asks.
///
/// # Errors
/// When it is not there: the tests were started without building the workspace.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding the test's own path")?;
    let path = own
        .ancestors()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built: run `cargo build --workspace`, or `tests/run`"))?;
    Ok(path)
}

/// A child that dies with the value that holds it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Length of the log when this process started.
    log_from: usize,
}

impl Process {
    /// Starts `program`; its output goes to `log` (appended, so that restarts keep the story).
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(name: &str, program: &Path, args: &[String], log: &Path) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log).with_context(|| format!("opening {log:?}"))?;
        let log_from = usize::try_from(out.metadata()?.len())?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("starting {program:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), log_from })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    /// When the process had ended by itself: a crash is a finding, not a kill.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.check_alive()?;
        kill(self.pid(), Signal::SIGKILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and gives its exit code.
    ///
    /// # Errors
    /// When it has not ended after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> anyhow::Result<Option<i32>> {
        if self.child.try_wait()?.is_none() {
            kill(self.pid(), Signal::SIGTERM)?;
        }
        self.wait(limit)
    }

    /// Waits for its end and gives its exit code.
    ///
    /// # Errors
    /// When it has not ended after `limit`.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<Option<i32>> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            ensure!(started.elapsed() < limit, "{} did not end within {limit:?}: {}", self.name, self.tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// # Errors
    /// When the process has ended, with the end of its log.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended by itself ({status}): {}", self.name, self.tail());
        }
        Ok(())
    }

    /// Waits until it, and no process before it, has printed `text`.
    ///
    /// # Errors
    /// When it has not after `limit`, or has ended.
    pub fn wait_until_said(&mut self, text: &str, limit: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let log = std::fs::read(&self.log)?;
            let own = String::from_utf8_lossy(log.get(self.log_from..).unwrap_or_default());
            if own.contains(text) {
                return Ok(());
            }
            self.check_alive()?;
            ensure!(started.elapsed() < limit, "{} did not say {text:?} within {limit:?}: {}", self.name, self.tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of what it printed.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
