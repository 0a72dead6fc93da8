//! One connection's life: say hello, take directives, report, tell, renew; and the loop that makes the next one.
//!
//! Everything durable is in the agent's file: a connection may end at any point and nothing is lost or done twice.

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use fleetmend_proto::{Fence, OrderId, clock::wall_now, v1};
use tokio::{sync::watch, time::Instant};

use super::{
    Backoff, Channel, Endpoint, LinkError, Patience, ServerRoot,
    backoff::unit,
    connect, directives,
    failure::chain,
    lease::HeldLease,
    orders::{ProofFirst, TellError, Teller},
    renewal::{RenewError, renew},
    report::{ReportError, Reporter},
};
use crate::{config::LinkSettings, identity::Identity, state::StateError};

/// How often a due renewal is looked for: timers stand still while a PC sleeps. Link time.
const RENEWAL_LOOK: Duration = Duration::from_secs(3600);

/// What the agent does with directives.
#[async_trait]
pub trait Directed: ProofFirst {
    /// What this device says of itself when it connects.
    async fn hello(&self) -> Result<v1::Hello, StateError>;
    /// SECURITY: exact bytes, not looked at by anybody yet.
    async fn order(&self, note: Bytes);
    async fn cancel(&self, order: OrderId, fence: Fence);
    async fn refresh(&self);
}

/// Why the link cannot go on at all.
#[derive(Debug, thiserror::Error)]
pub enum LinkStopped {
    #[error("the agent's own file failed under the link")]
    State(#[source] StateError),
    #[error(
        "this device's certificate ended at {not_after}, too long ago to be renewed: remove identity.json from the data \
         folder and enrol again with a new token"
    )]
    CertificateGone { not_after: chrono::DateTime<chrono::Utc> },
}

/// How one connection ended.
#[derive(Debug)]
enum End {
    /// The next connection shows the new certificate.
    Renewed(Identity),
    Drained(Duration),
    Failed(LinkError),
    Stopped(StateError),
}

/// The link of one agent.
#[derive(Debug)]
pub struct Link {
    pub endpoint: Endpoint,
    pub server_root: ServerRoot,
    pub settings: LinkSettings,
    pub data_dir: PathBuf,
    pub reporter: Arc<Reporter>,
    pub teller: Arc<Teller>,
    pub lease: Arc<HeldLease>,
    /// The connection in use, for calls that are made from elsewhere.
    pub current: watch::Sender<Option<Channel>>,
}

impl Link {
    /// The connection in use; waits until there is one.
    pub async fn channel(&self) -> Channel {
        let mut current = self.current.subscribe();
        loop {
            if let Some(channel) = current.borrow_and_update().clone() {
                return channel;
            }
            if current.changed().await.is_err() {
                // `self` holds the sender: this does not happen.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Keeps a connection for as long as the agent runs.
    ///
    /// # Errors
    /// When no connection will ever be made again without a person.
    pub async fn run(
        &self,
        mut identity: Identity,
        first_wait: Duration,
        directed: &dyn Directed,
    ) -> Result<Infallible, LinkStopped> {
        let mut backoff = Backoff::new(self.settings.backoff);
        let mut said = Said::default();
        let mut wait = first_wait;
        loop {
            tokio::time::sleep(wait).await;
            let now = wall_now();
            if !identity.is_renewable(now) {
                return Err(LinkStopped::CertificateGone { not_after: identity.not_after() });
            }
            let connected = Instant::now();
            let end = match self.open(&identity).await {
                Ok(channel) if identity.is_expired(now) => self.renew_expired(&channel, &identity).await,
                Ok(channel) => {
                    self.current.send_replace(Some(channel.clone()));
                    let end = self.session(&channel, &identity, directed, &mut said).await;
                    self.current.send_replace(None);
                    end
                }
                Err(error) => End::Failed(error),
            };
            backoff.connection_ended(connected.elapsed());
            wait = match end {
                End::Renewed(renewed) => {
                    identity = renewed;
                    self.settings.backoff.base.mul_f64(unit())
                }
                End::Drained(after) => {
                    tracing::info!(?after, "controller asks to connect again later");
                    backoff.wait(Patience::Told(after), unit())
                }
                End::Failed(error) => {
                    let wait = backoff.wait(error.patience(), unit());
                    said.failed(&error, wait);
                    wait
                }
                End::Stopped(error) => return Err(LinkStopped::State(error)),
            };
        }
    }

    async fn open(&self, identity: &Identity) -> Result<Channel, LinkError> {
        let tls = self.server_root.with_identity(identity).map_err(|source| LinkError::Identity { source })?;
        connect(&self.endpoint, &tls, &self.settings.channel).await
    }

    async fn renew_expired(&self, channel: &Channel, identity: &Identity) -> End {
        tracing::warn!(not_after = %identity.not_after(), "device certificate has run out, renewing it");
        match renew(channel, &self.settings.channel, identity, &self.data_dir).await {
            Ok(renewed) => End::Renewed(renewed),
            Err(RenewError::Link(error)) => End::Failed(error),
            Err(error @ RenewError::Identity(_)) => End::Failed(LinkError::Call { reason: chain(&error) }),
        }
    }

    /// From hello to the end of the connection.
    async fn session(&self, channel: &Channel, identity: &Identity, directed: &dyn Directed, said: &mut Said) -> End {
        let hello = match directed.hello().await {
            Ok(hello) => hello,
            Err(error) => return End::Stopped(error),
        };
        let limit = self.settings.channel.call_timeout;
        let mut client = channel.agent();
        let directives = match super::within(limit, channel, client.subscribe(hello)).await {
            Ok(directives) => directives,
            Err(error) => return End::Failed(error),
        };
        drop(client);
        said.connected(&self.endpoint);
        let reports = self.reporter.run(channel, limit, self.settings.backoff);
        let tells = self.teller.run(channel, limit, self.settings.backoff, directed);
        let renewal = self.renew_when_due(channel, identity);
        // Each is polled while the others wait: they share the agent's one database connection.
        tokio::select! {
            end = directives::take_all(directives, &self.lease, directed) => match end.failure(channel) {
                Ok(error) => End::Failed(error),
                Err(after) => End::Drained(after),
            },
            Err(end) = reports => match end {
                ReportError::Link(error) => End::Failed(error),
                ReportError::State(error) => End::Stopped(error),
            },
            Err(end) = tells => match end {
                TellError::Link(error) => End::Failed(error),
                TellError::State(error) => End::Stopped(error),
            },
            renewed = renewal => End::Renewed(renewed),
        }
    }

    /// Returns when a new certificate is saved.
    async fn renew_when_due(&self, channel: &Channel, identity: &Identity) -> Identity {
        let due = identity.renew_at(unit());
        let mut backoff = Backoff::new(self.settings.backoff);
        loop {
            let left = (due - wall_now()).to_std().unwrap_or_default();
            if !left.is_zero() {
                tokio::time::sleep(left.min(RENEWAL_LOOK)).await;
                continue;
            }
            match renew(channel, &self.settings.channel, identity, &self.data_dir).await {
                Ok(renewed) => return renewed,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "certificate renewal failed, trying again later");
                    tokio::time::sleep(backoff.long_wait(unit())).await;
                }
            }
        }
    }
}

/// Says each state of the link once, not at every attempt.
#[derive(Debug, Default)]
struct Said {
    last: String,
}

impl Said {
    fn connected(&mut self, endpoint: &Endpoint) {
        if self.last != "connected" {
            tracing::info!(controller = %endpoint, "connected to the controller");
            "connected".clone_into(&mut self.last);
        }
    }

    fn failed(&mut self, error: &LinkError, wait: Duration) {
        let text = chain(error);
        if self.last == text {
            tracing::debug!(error = %text, ?wait, "still no connection to the controller");
        } else if error.patience() == Patience::Long {
            tracing::error!(error = %text, ?wait, "no connection to the controller; this needs a person");
        } else {
            tracing::warn!(error = %text, ?wait, "no connection to the controller, trying again");
        }
        self.last = text;
    }
}
