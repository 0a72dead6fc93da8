//! `fleetmend check-config`: reads configuration, keys and certificates as `serve` would, and starts nothing.

use clap::Args;

use super::{
    exit::{Code, Failure},
    local::Local,
    output::line,
};
use crate::{
    config::Config,
    listen::MethodPolicy,
    pki::{self, Issuer, PkiError, TlsSettings},
};

#[derive(Debug, Args)]
pub struct CheckConfig {
    /// Print a configuration with every key and its default instead
    #[arg(long, conflicts_with = "config")]
    example: bool,
    #[command(flatten)]
    local: Local,
}

impl CheckConfig {
    /// # Errors
    /// 64 with the file and the key.
    pub fn run(self) -> Result<(), Failure> {
        if self.example {
            return line(Config::example().trim_end());
        }
        let config = self.local.load()?;
        keys(&config).map_err(|error| Failure::from_error(Code::Usage, &error.into()))?;
        MethodPolicy::checked().map_err(|gap| Failure::new(Code::Internal, gap))?;
        line(&format!("{} is good", self.local.file()?.display()))
    }
}

fn keys(config: &Config) -> Result<(), PkiError> {
    TlsSettings::load(config)?;
    Issuer::load(config)?;
    pki::order_key(config).map(|_| ())
}
