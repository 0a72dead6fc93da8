//! `fleetmend migrate`: brings the database to the schema this binary needs.

use clap::Args;

use super::{
    exit::Failure,
    local::{Local, block_on, store_failure},
    output::line,
};
use crate::store::Store;

#[derive(Debug, Args)]
pub struct Migrate {
    #[command(flatten)]
    local: Local,
}

impl Migrate {
    /// # Errors
    /// 64 when the database is newer than this binary or another fleet's, 69 when it cannot be reached.
    pub fn run(self) -> Result<(), Failure> {
        let config = self.local.load()?;
        let applied = block_on(async {
            let store = Store::connect(config.database.expose()).await?;
            let applied = store.migrate().await;
            store.close().await;
            applied
        })?
        .map_err(|error| store_failure(&error))?;
        match applied.as_slice() {
            [] => line(&format!("{} is up to date", config.database)),
            steps => line(&format!("{}: applied {}", config.database, steps.join(", "))),
        }
    }
}
