//! PostgreSQL for tests: the shared cluster of `tests/run`, and private ones that a fault test may stop and start.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

/// The shared cluster. A test that needs it fails where there is none: skipping an engine is a failure.
///
/// # Errors
/// When the tests were not started by `tests/run`.
pub fn shared_url() -> anyhow::Result<String> {
    std::env::var("FLEETMEND_TEST_POSTGRES")
        .context("FLEETMEND_TEST_POSTGRES is not set: start the tests by `tests/run`")
}

/// Where `initdb` and `pg_ctl` are: what `tests/run` says, else Debian's newest.
fn programs() -> anyhow::Result<PathBuf> {
    if let Some(bin) = std::env::var_os("FLEETMEND_TEST_PG_BIN") {
        return Ok(bin.into());
    }
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> =
        installed.map(|entry| entry.path().join("bin")).filter(|it| it.join("initdb").exists()).collect();
    found.sort();
    found
        .pop()
        .context("PostgreSQL is not installed: install the package postgresql, or start the tests by `tests/run`")
}

/// A cluster of one test's own. Stopped and deleted when dropped.
pub struct PrivatePostgres {
    bin: PathBuf,
    folder: TempDir,
    port: u16,
}

impl PrivatePostgres {
    /// Makes and starts a cluster, as the user `postgres` when the test runs as root.
    ///
    /// # Errors
    /// When there is no PostgreSQL, or it does not start.
    pub fn start() -> anyhow::Result<Self> {
        let bin = programs()?;
        let folder = tempfile::tempdir()?;
        if nix::unistd::geteuid().is_root() {
            let user = nix::unistd::User::from_name("postgres")?.context("there is no user postgres")?;
            nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid))?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let cluster = Self { bin, folder, port };
        let data = cluster.data();
        cluster.run("initdb", &["-D", &data, "-U", "fleetmend", "--auth=trust", "--encoding=UTF8", "--locale=C"])?;
        cluster.resume()?;
        Ok(cluster)
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://fleetmend@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops the server as a crash would: no check point, connections cut.
    ///
    /// # Errors
    /// When `pg_ctl` fails.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"])
    }

    /// Starts the server again.
    ///
    /// # Errors
    /// When `pg_ctl` fails.
    pub fn resume(&self) -> anyhow::Result<()> {
        let folder = self.folder.path().display();
        let options = format!("-p {} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=100", self.port);
        let log = self.folder.path().join("log");
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-l", &log.to_string_lossy(), "-o", &options, "start"])
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_string_lossy().into_owned()
    }

    fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<()> {
        let path: &Path = &self.bin.join(program);
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.args(args).current_dir(self.folder.path());
        // The server inherits these: a pipe would keep its reader waiting for as long as the server lives.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().with_context(|| format!("starting {program}"))?;
        ensure!(status.success(), "{program} {args:?} ended with {status}");
        Ok(())
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
