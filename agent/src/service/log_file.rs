//! The service's log: a file beside the config, begun anew when it is long, with a few old ones kept. A service has no
//! terminal to write to.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Longest file, in bytes, and how many old ones are kept.
const LENGTH: u64 = 5 * 1024 * 1024;
const OLD: u32 = 3;

/// Sends the log to `logs\agent.log` beside the config. Without a place to write, the service runs without a log.
pub(super) fn install(config: &Path) {
    let folder = config.parent().unwrap_or_else(|| Path::new(".")).join("logs");
    if fs::create_dir_all(&folder).is_err() {
        return;
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = Log(Mutex::new(Rotating { path: folder.join("agent.log"), file: None, length: 0 }));
    // A second start in one process would keep the first log.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(log).try_init();
}

struct Log(Mutex<Rotating>);

struct Rotating {
    path: PathBuf,
    file: Option<File>,
    length: u64,
}

/// One line at a time.
struct Line<'a>(&'a Mutex<Rotating>);

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length >= LENGTH {
            self.file = None;
            self.rotate();
        }
        let file = match &mut self.file {
            Some(file) => file,
            empty @ None => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
                self.length = file.metadata()?.len();
                empty.insert(file)
            }
        };
        file.write_all(bytes)?;
        self.length += u64::try_from(bytes.len()).unwrap_or_default();
        Ok(())
    }

    /// What cannot be renamed is written on: a long log is better than none.
    fn rotate(&self) {
        let old = |number: u32| self.path.with_extension(format!("{number}.log"));
        for number in (1..OLD).rev() {
            let _ = fs::rename(old(number), old(number + 1));
        }
        let _ = fs::rename(&self.path, old(1));
    }
}
