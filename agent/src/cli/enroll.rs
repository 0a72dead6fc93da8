//! `fleetmend-agent enroll`: makes this PC a device of its fleet, once, and says which one.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, ConfigArg, block_on, load};
use crate::runner::{self, DataDir};

#[derive(Debug, Args)]
pub struct EnrollArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// File with the enrolment token, instead of the one the config names; removed after use.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Folder with logs collected from a PC: enrol under what its machine.toml says.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
}

/// # Errors
/// What stands in the way, and what to do.
pub fn run(args: &EnrollArgs) -> Result<(), CliError> {
    let mut config = load(&args.config)?;
    if let Some(file) = &args.token_file {
        config.enrollment_token_file = Some(file.clone());
    }
    let platform = super::platform(args.from.as_deref(), &config)?;
    block_on(async {
        let _data = DataDir::lock(&config.data_dir).map_err(CliError::Run)?;
        let identity = runner::enroll_once(&config, &*platform).await.map_err(CliError::Run)?;
        println!("device {} of fleet {}", identity.device(), identity.fleet());
        println!("certificate valid until {}", identity.not_after());
        Ok(())
    })
}
