//! The whole life of a controller process on one page: keys, ports, database, loops, services, drain.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleetmend_domain::catalogue::Catalogue;
use fleetmend_proto::Clock;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    grpc::{self, AgentApi, EnrollmentApi, Gate, Ingest},
    http::{self, ApiState},
    listen::{
        AcceptLimits, BindError, ConnectionRegistry, EnrollmentRate, GuardedRouter, Incoming, Listener, MethodPolicy,
        PolicyGap, agents_server_builder, enrollment_server_builder, serve_grpc, serve_operators,
    },
    nudge::Nudges,
    packages::Packages,
    pki::{self, Issuer, PkiError, TlsSettings},
    reconcile::{self, Pass, decide::Rules, dispatch::Signer},
    replica,
    store::{Store, StoreError},
    streams::Streams,
};

/// Between two looks of a loop that nobody nudged; shorter where domain time runs faster.
const TICK: Duration = Duration::from_secs(2);
/// The same in domain time: a simulation must not find its cool-downs over hours late.
const DOMAIN_TICK: Duration = Duration::from_secs(15 * 60);
const SHORTEST_TICK: Duration = Duration::from_millis(50);
/// Between two looks for banned devices; a ban cuts a live stream within 5 s.
const BAN_SWEEP: Duration = Duration::from_secs(2);
/// Between two looks for streams past their age.
const STREAM_AGES: Duration = Duration::from_secs(30);
const PACKAGES_REFRESH: Duration = Duration::from_secs(60);
/// After the grace of the drain, for tasks to end; and then for the database's connections.
const AFTER_GRACE: Duration = Duration::from_secs(15);
const STORE_CLOSES: Duration = Duration::from_secs(5);
/// First wait for a database that does not answer, doubling to the second.
const DATABASE_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Why a controller did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("keys and certificates cannot be used")]
    Keys(#[source] PkiError),
    #[error("a listener cannot be opened")]
    Listen(#[source] BindError),
    #[error("not every call has a policy")]
    Policy(#[source] PolicyGap),
    #[error("the database cannot be used")]
    Store(#[source] StoreError),
    #[error("stopped before it had started")]
    Stopped,
}

/// A running controller.
pub struct Controller {
    store: Store,
    addresses: Addresses,
    streams: Streams,
    duplicates: Arc<AtomicU64>,
    shutdown: CancellationToken,
    grace: Duration,
    tasks: Vec<JoinHandle<()>>,
}

/// Where a controller listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub enrollment: SocketAddr,
    pub agents: SocketAddr,
    pub operators: SocketAddr,
}

/// Runs a controller until `shutdown`, then drains it.
///
/// # Errors
/// When it can't start, naming what and what to do.
pub async fn serve(config: Config, clock: Arc<dyn Clock>, shutdown: CancellationToken) -> Result<(), ServeError> {
    Controller::start(config, clock, shutdown).await?.finished().await;
    Ok(())
}

impl Controller {
    /// Starts everything; returns when all ports answer.
    ///
    /// # Errors
    /// When keys, ports or database can't be used. A database that does not answer is waited for.
    pub async fn start(config: Config, clock: Arc<dyn Clock>, shutdown: CancellationToken) -> Result<Self, ServeError> {
        let methods = MethodPolicy::checked().map_err(ServeError::Policy)?;
        let tls = TlsSettings::load(&config).map_err(ServeError::Keys)?;
        let issuer = Arc::new(Issuer::load(&config).map_err(ServeError::Keys)?);
        let signer = Signer { fleet: config.fleet, key: pki::order_key(&config).map_err(ServeError::Keys)? };
        let bind = |name, addr| Listener::bind(name, addr).map_err(ServeError::Listen);
        let enrollment = bind("enrollment", config.listen.enrollment)?;
        let agents = bind("agents", config.listen.agents)?;
        let operators = bind("operators", config.listen.operators)?;
        let addresses = Addresses { enrollment: enrollment.addr(), agents: agents.addr(), operators: operators.addr() };
        let store = open_store(&config, &shutdown).await?;

        let registry = ConnectionRegistry::default();
        let (streams, nudges) = (Streams::over(config.drain.clone(), registry.clone()), Nudges::default());
        let replica = replica::name(&config.data_dir);
        let left = store.sessions_clear(&replica).await.map_err(ServeError::Store)?;
        if left > 0 {
            tracing::info!(sessions = left, "an earlier process of this controller left sessions open: closed");
        }
        let packages = Packages::new(config.packages.clone());
        refresh(&packages).await;
        let gate = Gate::new(store.clone(), streams.clone(), registry.clone(), tls.barred.clone());
        // The committing task outlives the listeners: what they took is answered.
        let (ingest, ingest_task) = Ingest::start(store.clone(), nudges.clone());
        let duplicates = ingest.duplicates();
        let parts = Parts {
            store: store.clone(),
            clock: clock.clone(),
            nudges: nudges.clone(),
            streams: streams.clone(),
            shutdown: shutdown.clone(),
        };
        let rules = Rules { policy: config.policy.clone(), catalogue: Catalogue::embedded(), packages };
        let mut tasks = start_loops(&parts, rules, signer, gate.clone(), replica.clone());
        tasks.push(ingest_task);

        let agent_api = AgentApi {
            fleet: config.fleet,
            replica,
            store: store.clone(),
            clock: clock.clone(),
            issuer: issuer.clone(),
            gate,
            ingest,
            streams: streams.clone(),
            nudges: nudges.clone(),
        };
        let enrollment_api = EnrollmentApi {
            fleet: config.fleet,
            store: store.clone(),
            clock: clock.clone(),
            issuer,
            rate: EnrollmentRate::new(&config.enrollment),
        };
        let operator_api = http::router(ApiState {
            store: store.clone(),
            clock,
            catalogue: Catalogue::embedded(),
            nudges,
            streams: streams.clone(),
            data_dir: config.data_dir.clone(),
            max_body: config.limits.operators.max_body.bytes(),
        });

        let limits = &config.limits;
        let grace = config.drain.grace.0;
        let router = agents_server_builder(&limits.agents, methods)
            .add_service(agent_api.into_service(&limits.agents))
            .add_service(grpc::health())
            .add_service(grpc::reflection());
        let incoming = agents.start(AcceptLimits::from(&limits.agents), tls.agents, registry, shutdown.clone());
        tasks.push(serve_one("agents", router, incoming, &shutdown, grace));
        let router = enrollment_server_builder(&limits.enrollment, methods)
            .add_service(enrollment_api.into_service(&limits.enrollment));
        let accept = AcceptLimits::from(&limits.enrollment);
        let incoming = enrollment.start(accept, tls.enrollment, ConnectionRegistry::default(), shutdown.clone());
        tasks.push(serve_one("enrollment", router, incoming, &shutdown, grace));
        let accept = AcceptLimits::from(&limits.operators);
        let incoming = operators.start(accept, tls.operators, ConnectionRegistry::default(), shutdown.clone());
        let (limits, stop) = (limits.operators.clone(), shutdown.clone());
        tasks.push(tokio::spawn(async move { serve_operators(operator_api, &limits, incoming, stop, grace).await }));
        tracing::info!(
            enrollment = %addresses.enrollment, agents = %addresses.agents, operators = %addresses.operators,
            database = store.shown_url(), posture = %config.policy.posture, "controller is up"
        );
        Ok(Self { store, addresses, streams, duplicates, shutdown, grace, tasks })
    }

    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Devices whose stream is open here.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.streams.len()
    }

    /// Outcomes that came once more than needed since the start, and were told apart.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// Waits for the end: of the shutdown token, then of the drain, which takes no longer than its grace and
    /// [`AFTER_GRACE`]. What has not ended then is given up: all that was promised is in the database already.
    pub async fn finished(self) {
        self.shutdown.cancelled().await;
        let streams = self.streams.drain(true);
        tracing::info!(streams, "draining: devices were told when to come back");
        let given_up = ended(self.tasks, self.grace + AFTER_GRACE).await;
        if timeout(STORE_CLOSES, self.store.close()).await.is_err() || given_up > 0 {
            tracing::warn!(tasks = given_up, "controller stopped without waiting longer for what did not end");
        } else {
            tracing::info!("controller stopped");
        }
    }
}

/// Waits for all tasks, but for `limit` at most; the number that was given up.
async fn ended(tasks: Vec<JoinHandle<()>>, limit: Duration) -> usize {
    let deadline = Instant::now() + limit;
    let mut given_up = 0;
    for mut task in tasks {
        match timeout_at(deadline, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "a task ended badly"),
            Err(_) => {
                task.abort();
                given_up += 1;
            }
        }
    }
    given_up
}

fn serve_one(
    name: &'static str,
    router: GuardedRouter,
    incoming: Incoming,
    shutdown: &CancellationToken,
    grace: Duration,
) -> JoinHandle<()> {
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        if let Err(error) = serve_grpc(router, incoming, shutdown, grace).await {
            tracing::error!(listener = name, error = &error as &dyn std::error::Error, "listener ended badly");
        }
    })
}

/// What every loop needs.
#[derive(Clone)]
struct Parts {
    store: Store,
    clock: Arc<dyn Clock>,
    nudges: Nudges,
    streams: Streams,
    shutdown: CancellationToken,
}

fn start_loops(parts: &Parts, rules: Rules, signer: Signer, gate: Gate, replica: String) -> Vec<JoinHandle<()>> {
    let tick = parts.clock.real(DOMAIN_TICK).clamp(SHORTEST_TICK, TICK);
    let (packages, policy) = (rules.packages.clone(), rules.policy.clone());
    let (renew_for, sweep_for) = (replica.clone(), replica.clone());
    let decide = {
        let p = parts.clone();
        tokio::spawn(async move {
            let pass = || decide_pass(&p, &rules);
            reconcile::run("decide", tick, p.nudges.decide_wanted(), &p.shutdown, pass).await;
        })
    };
    let dispatch = {
        let p = parts.clone();
        tokio::spawn(async move {
            let pass = || reconcile::dispatch::pass(&p.store, &replica, &p.streams, &signer, &*p.clock);
            reconcile::run("dispatch", tick, p.nudges.dispatch_wanted(), &p.shutdown, pass).await;
        })
    };
    let renew = {
        let (p, replica) = (parts.clone(), renew_for);
        tokio::spawn(async move {
            let pass = || reconcile::renew::pass(&p.store, &replica, &p.streams);
            reconcile::run("renew", reconcile::renew::EVERY, p.nudges.renew_wanted(), &p.shutdown, pass).await;
        })
    };
    let sessions = {
        let (p, replica) = (parts.clone(), sweep_for);
        tokio::spawn(async move {
            let pass = || reconcile::sessions::pass(&p.store, &replica, &p.streams, reconcile::sessions::GRACE);
            reconcile::run("session sweep", reconcile::sessions::EVERY, &Notify::new(), &p.shutdown, pass).await;
        })
    };
    let verify = {
        let p = parts.clone();
        tokio::spawn(async move {
            let pass = || reconcile::verify::pass(&p.store, &policy, &*p.clock, &p.nudges);
            reconcile::run("verify", tick, p.nudges.verify_wanted(), &p.shutdown, pass).await;
        })
    };
    let expire = {
        let p = parts.clone();
        tokio::spawn(async move {
            let pass = || reconcile::expire::pass(&p.store, &*p.clock, &p.nudges);
            reconcile::run("expire", tick, &Notify::new(), &p.shutdown, pass).await;
        })
    };
    let bans = {
        let p = parts.clone();
        tokio::spawn(async move {
            let pass = || async { gate.sweep().await.map(|_| Pass::Idle) };
            reconcile::run("ban sweep", BAN_SWEEP, &Notify::new(), &p.shutdown, pass).await;
        })
    };
    let ages = {
        let p = parts.clone();
        tokio::spawn(async move {
            let pass = || async {
                p.streams.drain(false);
                Ok(Pass::Idle)
            };
            reconcile::run("stream age", STREAM_AGES, &Notify::new(), &p.shutdown, pass).await;
        })
    };
    let refresh = {
        let shutdown = parts.shutdown.clone();
        tokio::spawn(async move {
            let pass = || async {
                refresh(&packages).await;
                Ok(Pass::Idle)
            };
            reconcile::run("packages", PACKAGES_REFRESH, &Notify::new(), &shutdown, pass).await;
        })
    };
    vec![decide, dispatch, renew, sessions, verify, expire, bans, ages, refresh]
}

async fn decide_pass(parts: &Parts, rules: &Rules) -> Result<Pass, StoreError> {
    reconcile::decide::pass(&parts.store, rules, &*parts.clock, &parts.nudges).await
}

/// Opens the database, waiting for one that does not answer, and brings its schema up to date.
async fn open_store(config: &Config, shutdown: &CancellationToken) -> Result<Store, ServeError> {
    let (mut wait, longest) = DATABASE_WAIT;
    loop {
        match try_store(config).await {
            Ok(store) => return Ok(store),
            Err(error) if error.is_transient() => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "database does not answer, trying again in {wait:?}"
                );
            }
            Err(error) => return Err(ServeError::Store(error)),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(ServeError::Stopped),
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(longest),
        }
    }
}

async fn try_store(config: &Config) -> Result<Store, StoreError> {
    let store = Store::connect(config.database.expose()).await?;
    for migration in store.migrate().await? {
        tracing::info!(migration, "schema changed");
    }
    store.schema_check().await?;
    store.fleet_ensure(config.fleet).await?;
    Ok(store)
}

/// Hashes new package files away from the runtime's threads.
async fn refresh(packages: &Packages) {
    let packages = packages.clone();
    match tokio::task::spawn_blocking(move || packages.refresh()).await {
        Ok(Ok(count)) => tracing::debug!(count, "packages read"),
        Ok(Err(error)) => tracing::error!(error = &error as &dyn std::error::Error, "packages not read"),
        Err(error) => tracing::error!(%error, "reading packages ended badly"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_never_ends_is_given_up_and_the_others_are_waited_for() {
        let (told, hears) = tokio::sync::oneshot::channel();
        let stuck = tokio::spawn(std::future::pending());
        let slow = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = told.send(());
        });
        assert_eq!(ended(vec![slow, stuck], Duration::from_millis(500)).await, 1);
        hears.await.expect("the slow one ended by itself");
    }
}
