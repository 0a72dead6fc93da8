//! How a command ends: one of a few exit codes (the numbers of `sysexits.h`) and a message that says what to do next.

use std::{fmt, io, process::ExitCode};

use super::printable::printable;

/// The exit codes of `fleetmend`. Each has one meaning for all commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The command line or the configuration is wrong.
    Usage = 64,
    /// What was given is well-formed but not acceptable: a file's content, or a request that the controller refused.
    Data = 65,
    /// There is nothing by that id, name or code.
    NotFound = 66,
    /// The controller or its database cannot be reached.
    Unreachable = 69,
    /// Anything that should not happen: a bug, or a controller that answers nonsense.
    Internal = 70,
    /// A file cannot be read or written, a port cannot be opened.
    Io = 74,
    /// The token is missing, unknown, expired, or its role does not allow it.
    NotPermitted = 77,
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), hint: None }
    }

    /// `error` with everything that caused it, outermost first.
    pub fn from_error(code: Code, error: &anyhow::Error) -> Self {
        Self::new(code, format_args!("{error:#}"))
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// Prints to standard error and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        eprintln!("error: {}", printable(&self.message));
        if let Some(hint) = &self.hint {
            eprintln!("  {}", printable(hint));
        }
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Standard output went away (`| head`): not worth an error message, but not a success either.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Code::Io, format_args!("cannot write to standard output: {error}"))
    }
}

/// `--help` and `--version` are successes; every other end of parsing is wrong usage.
#[must_use]
pub fn after_parse(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(Code::Usage as u8) } else { ExitCode::SUCCESS }
}
