//! `fleetmend-agent install|uninstall|status`: the service of this PC. Windows only.

use clap::Args;

use super::{CliError, ConfigArg, Exit, block_on, load};
use crate::{
    identity::Identity,
    platform::{Platform as _, windows::WindowsPc, windows::folder},
    service::control,
};

#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Start the service at once.
    #[arg(long)]
    start: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print what this PC says of itself, as JSON.
    #[arg(long)]
    condition: bool,
}

/// # Errors
/// What is wrong with the config or the data folder, or why Windows takes no service.
pub fn install(args: &InstallArgs) -> Result<(), CliError> {
    let config = load(&args.config)?;
    folder::prepare(&config.data_dir)
        .map_err(|source| CliError::Run(crate::runner::RunError::DataDir { path: config.data_dir.clone(), source }))?;
    let path = std::path::absolute(&args.config.config).map_err(|error| CliError::failed(Exit::Io, &error))?;
    let refused = control::install(&path).map_err(|error| CliError::failed(Exit::NoPermission, &error))?;
    for what in refused {
        eprintln!("fleetmend-agent: warning: Windows did not take {what}");
    }
    println!("service {} is installed", crate::service::NAME);
    if args.start {
        control::start().map_err(|error| CliError::failed(Exit::Software, &error))?;
        println!("service {} is starting", crate::service::NAME);
    }
    Ok(())
}

/// # Errors
/// Why the service cannot be removed.
pub fn uninstall() -> Result<(), CliError> {
    let removed = control::uninstall().map_err(|error| CliError::failed(Exit::NoPermission, &error))?;
    let name = crate::service::NAME;
    if removed {
        println!("service {name} is removed; its data folder stays");
    } else {
        println!("there is no service {name}");
    }
    Ok(())
}

/// # Errors
/// What cannot be read.
pub fn status(args: &StatusArgs) -> Result<(), CliError> {
    let config = load(&args.config)?;
    if args.condition {
        let pc = WindowsPc::new(&config.data_dir, config.package_folder);
        return block_on(async {
            let failed = |error| CliError::failed(Exit::Software, &error);
            pc.record_files().await.map_err(failed)?;
            let condition = pc.condition().await.map_err(failed)?;
            let text = serde_json::to_string_pretty(&condition);
            println!("{}", text.map_err(|error| CliError::failed(Exit::Software, &error))?);
            Ok(())
        });
    }
    match control::status().map_err(|error| CliError::failed(Exit::NoPermission, &error))? {
        Some(service) => println!("service    {:?}, {}", service.state, service.program.display()),
        None => println!("service    not installed"),
    }
    match Identity::load(&config.data_dir).map_err(|error| CliError::failed(Exit::NoPermission, &error))? {
        Some(identity) => {
            println!("device     {} of fleet {}", identity.device(), identity.fleet());
            println!("valid      until {}", identity.not_after());
        }
        None => println!("device     not enrolled"),
    }
    println!("controller {}", config.agent);
    Ok(())
}
