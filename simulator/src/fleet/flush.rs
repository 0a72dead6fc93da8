//! The end of a run: every agent reads its PC's records once more and sends what its outbox holds, and nothing else. After
//! it, what the PCs noted and what the controller stored can be compared.

use std::{path::Path, sync::Arc};

use fleetmend_agent::{
    config::Config,
    detect::{self, FolderError},
    identity::Identity,
    link::{
        self,
        dead_letters::DeadLetters,
        report::{Reporter, Sent},
    },
    outbox::Outbox,
    runner::{DataDir, Records},
    state::AgentDb,
};
use futures::StreamExt as _;

use super::FleetSettings;
use crate::pc::Pc;

/// TLS handshakes at once.
const AT_ONCE: usize = 16;

/// What all outboxes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Outcomes ever put into an outbox.
    pub recorded: u64,
    /// Of these, not acknowledged.
    pub pending: u64,
    /// PCs whose outbox could not be read or sent.
    pub failed: u64,
}

/// Flushes each PC's outbox. A PC whose agent never enrolled has nothing to send.
pub async fn all(pcs: &[Arc<Pc>], settings: &FleetSettings) -> Flushed {
    let flushed = futures::stream::iter(pcs.iter().map(|pc| async move {
        let index = pc.profile().index;
        match one(pc, settings).await {
            Ok(flushed) => flushed,
            Err(error) => {
                tracing::error!(pc = index, error = format!("{error:#}"), "the outbox of this PC was not sent");
                Flushed { failed: 1, ..Flushed::default() }
            }
        }
    }));
    let add = |sum: Flushed, one: Flushed| Flushed {
        recorded: sum.recorded + one.recorded,
        pending: sum.pending + one.pending,
        failed: sum.failed + one.failed,
    };
    flushed.buffer_unordered(AT_ONCE).fold(Flushed::default(), async |sum, one| add(sum, one)).await
}

/// Outcomes in the record files of a PC's folder, read anew by the agent's own detection.
///
/// # Errors
/// [`FolderError`] where the folder cannot be read.
pub fn outcomes_on_disk(pc_dir: &Path) -> Result<u64, FolderError> {
    detect::outcomes_in(pc_dir).map(|collected| collected.outcomes.len() as u64)
}

async fn one(pc: &Arc<Pc>, settings: &FleetSettings) -> anyhow::Result<Flushed> {
    let config = settings.agent_config(pc.profile().index)?;
    let data = DataDir::lock(&config.data_dir)?;
    let db = AgentDb::open(&data.database(), settings.clock.now()).await?;
    let flushed = send(pc, settings, &config, &db).await;
    db.close().await;
    flushed
}

async fn send(pc: &Arc<Pc>, settings: &FleetSettings, config: &Config, db: &AgentDb) -> anyhow::Result<Flushed> {
    let Some(identity) = Identity::load(&config.data_dir)? else {
        anyhow::bail!("its agent did not enrol");
    };
    let outbox = Outbox::new(db.clone());
    let reporter = Arc::new(Reporter::new(outbox.clone(), DeadLetters::new(&config.data_dir)));
    let clock = Arc::clone(&settings.clock);
    let every = config.condition_interval;
    let records = Records::new(pc.start_agent()?, clock, outbox.clone(), Arc::clone(&reporter), None, every);
    records.look_at_all().await?;
    let tls = config.server_root.with_identity(&identity)?;
    let channel = link::connect(&config.agent, &tls, &config.link.channel).await?;
    reporter.drain(&channel, config.link.channel.call_timeout, &mut Sent::default()).await?;
    let recorded = u64::try_from(outbox.recorded_total().await?)?;
    let pending = u64::try_from(outbox.pending().await?.outcomes)?;
    Ok(Flushed { recorded, pending, failed: 0 })
}
