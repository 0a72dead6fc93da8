//! `fleetmend init`: a new fleet, from an empty folder to the first operator token. Makes what is missing, overwrites nothing.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use fleetmend_proto::clock::wall_now;
use serde::Serialize;

use super::{
    exit::{Code, Failure},
    local::{OPERATOR_TOKEN_FILE, block_on, store_failure},
    output::Output,
};
use crate::{
    config::DatabaseUrl,
    http::Role,
    pki::{self, InitError, InitOptions, Initialised},
    secret,
    store::{NewApiToken, Store, StoreError},
};

const FIRST_TOKEN_LIFE: Duration = Duration::from_hours(90 * 24);
const FIRST_TOKEN_NAME: &str = "init";

pub const EXAMPLES: &str = "\
Examples:
  fleetmend init --data-dir fleet                                       everything on this machine, SQLite
  fleetmend init --data-dir /var/lib/fleetmend --name fleet.example.com \\
      --enrollment-addr 0.0.0.0:7441 --agents-addr 0.0.0.0:7442 \\
      --database-url postgres://fleetmend@db.example.com/fleetmend";

#[derive(Debug, Args)]
pub struct Init {
    /// Folder for data, keys and certificates; must not hold a fleet yet
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The configuration to write [default: fleetmend.toml in the data folder]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A name or address by which agents and people reach this controller, besides localhost; may be given again
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Where devices join [default: 127.0.0.1:7441]
    #[arg(long, value_name = "ADDR:PORT")]
    enrollment_addr: Option<SocketAddr>,
    /// Where enrolled devices connect [default: 127.0.0.1:7442]
    #[arg(long, value_name = "ADDR:PORT")]
    agents_addr: Option<SocketAddr>,
    /// Where people and programs connect [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDR:PORT")]
    operators_addr: Option<SocketAddr>,
    /// sqlite://FILE or postgres://USER@HOST/NAME [default: SQLite in the data folder]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// What was made, for programs.
#[derive(Debug, Serialize)]
struct Made {
    fleet: String,
    config: PathBuf,
    server_root: PathBuf,
    agent_config: PathBuf,
    order_key: String,
    offline_keys: PathBuf,
    operator_token: PathBuf,
}

impl Init {
    /// # Errors
    /// 64 for a bad name, 74 for files, 69 or 70 for the database (the files are made by then).
    pub fn run(self) -> Result<(), Failure> {
        let output = self.output;
        let mut options = InitOptions::new(self.data_dir, wall_now());
        options.config_file = self.config;
        options.names = self.names;
        options.enrollment = self.enrollment_addr;
        options.agents = self.agents_addr;
        options.operators = self.operators_addr;
        options.database = self.database_url.map(DatabaseUrl::new);
        let fleet = pki::init(&options).map_err(failure)?;
        let operator_token = fleet.config.data_dir.join(OPERATOR_TOKEN_FILE);
        let token = secret::new(secret::Kind::Api);
        block_on(prepare(&fleet, &token))?.map_err(|error| {
            store_failure(&error).hint(format!(
                "keys and configuration are made; then `fleetmend migrate --config {0}` and `fleetmend token new --operator \
                 --name NAME --config {0}`",
                fleet.config_file.display()
            ))
        })?;
        pki::write_secret(&operator_token, &format!("{token}\n")).map_err(failure)?;
        let made = Made {
            fleet: fleet.config.fleet.to_string(),
            config: fleet.config_file,
            server_root: fleet.server_root,
            agent_config: fleet.agent_config,
            order_key: fleet.order_verifier,
            offline_keys: fleet.offline,
            operator_token,
        };
        output.print(&made, text)
    }
}

/// Brings the database to its schema, claims it for the fleet, and keeps the first token.
async fn prepare(fleet: &Initialised, token: &str) -> Result<(), StoreError> {
    let store = Store::connect(fleet.config.database.expose()).await?;
    let done = async {
        store.migrate().await?;
        store.fleet_ensure(fleet.config.fleet).await?;
        let now = wall_now();
        let row = NewApiToken {
            hash: secret::hash(token),
            name: FIRST_TOKEN_NAME.to_owned(),
            role: Role::Operator.word().to_owned(),
            expires_at: now + FIRST_TOKEN_LIFE,
            created_by: FIRST_TOKEN_NAME.to_owned(),
            now,
        };
        store.api_token_insert(row).await.map(|_| ())
    }
    .await;
    store.close().await;
    done
}

fn text(made: &Made) -> String {
    let (config, root, agent) = (made.config.display(), made.server_root.display(), made.agent_config.display());
    format!(
        "Fleet {fleet} is made.\n\n\
         configuration    {config}\n\
         operator token   {token}\n\
         for agents       {agent}\n                 {root}\n\
         order key        {key}\n\
         offline keys     {offline}\n\n\
         Move the folder of offline keys to a place without a network: nothing here needs it.\n\
         Next: fleetmend serve --config {config}\n\
         Then: fleetmend token new --config {config}    (for the first device)",
        fleet = made.fleet,
        token = made.operator_token.display(),
        key = made.order_key,
        offline = made.offline_keys.display(),
    )
}

fn failure(error: InitError) -> Failure {
    let code = match &error {
        InitError::Exists(_) | InitError::Write { .. } => Code::Io,
        InitError::Name(_) | InitError::Database(_) => Code::Usage,
        InitError::Certificate(_) => Code::Internal,
    };
    Failure::from_error(code, &error.into())
}
