//! `fleetmend-agent check-config`: reads the config as `run` would, and says what it found.

use clap::Args;

use super::{CliError, ConfigArg, load};
use crate::config::EXAMPLE;

#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print a commented config with all keys and defaults instead.
    #[arg(long)]
    example: bool,
}

/// # Errors
/// What is wrong with the config.
pub fn run(args: &CheckConfigArgs) -> Result<(), CliError> {
    if args.example {
        print!("{EXAMPLE}");
        return Ok(());
    }
    let config = load(&args.config)?;
    println!("{} is fine", args.config.config.display());
    println!("fleet        {}", config.fleet);
    println!("enrolment    {}", config.enrollment);
    println!("agents       {}", config.agent);
    println!("data folder  {}", config.data_dir.display());
    println!("order keys   {}", config.order_keys.len());
    println!("max tier     {}", config.policy.max_tier);
    Ok(())
}
