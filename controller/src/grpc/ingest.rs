//! Group commit of reports: whatever arrives while one transaction commits goes into the next. An answer is sent only
//! after the commit that holds the report.
//!
//! INVARIANT: `submit` returns `Ok` only for what a committed transaction contains (or had contained before).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleetmend_proto::v1;
use tokio::sync::{mpsc, oneshot};

use super::poison::Poison;
use crate::{
    nudge::Nudges,
    store::{DeviceReport, ReportRecorded, Store, StoreError},
};

/// Reports waiting for a transaction; over that, senders are told to come back.
const QUEUE: usize = 4_096;
/// Reports in one transaction at most; each holds up to 500 outcomes.
const MAX_BATCH: usize = 1_024;
/// For one transaction; less than an agent waits.
const COMMIT_LIMIT: Duration = Duration::from_secs(14);
/// Outcomes in one transaction at most (one report may go over it).
const MAX_OUTCOMES: usize = 4_096;

struct Waiting {
    report: DeviceReport,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<Taken, StoreError>>;

/// A report that was taken: all of it is durable, but for what was refused for good.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    pub recorded: ReportRecorded,
    /// Outcomes that can never be recorded: the device keeps them for people, and goes on.
    pub rejections: Vec<v1::Rejection>,
}

impl From<ReportRecorded> for Taken {
    fn from(recorded: ReportRecorded) -> Self {
        Self { recorded, rejections: Vec::new() }
    }
}

/// Hands reports to the task that commits them; cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    queue: mpsc::Sender<Waiting>,
    duplicates: Arc<AtomicU64>,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestClosed {
    #[error("{QUEUE} reports are waiting for the database")]
    Full,
    #[error("the controller is shutting down")]
    ShuttingDown,
    #[error("recording the report")]
    Store(#[source] StoreError),
}

impl Ingest {
    /// Starts the committing task; it ends when all handles are gone and what it holds is committed.
    #[must_use]
    pub fn start(store: Store, nudges: Nudges) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let task = tokio::spawn(commit_loop(store, nudges, waiting));
        (Self { queue, duplicates: Arc::default() }, task)
    }

    /// Counts outcomes that came once more than needed; may be kept longer than the handle it is from.
    #[must_use]
    pub fn duplicates(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.duplicates)
    }

    /// Waits for the commit that holds `report`.
    ///
    /// # Errors
    /// When the queue is full, at shutdown, or when the store refused: nothing was acknowledged then, send it again.
    pub async fn submit(&self, report: DeviceReport) -> Result<Taken, IngestClosed> {
        let (answer, recorded) = oneshot::channel();
        self.queue.try_send(Waiting { report, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => IngestClosed::Full,
            mpsc::error::TrySendError::Closed(_) => IngestClosed::ShuttingDown,
        })?;
        let taken = recorded.await.map_err(|_| IngestClosed::ShuttingDown)?.map_err(IngestClosed::Store)?;
        self.duplicates.fetch_add(u64::from(taken.recorded.duplicates), Ordering::Relaxed);
        Ok(taken)
    }
}

async fn commit_loop(store: Store, nudges: Nudges, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::new();
    let mut poison = Poison::default();
    loop {
        if batch.is_empty() {
            let Some(first) = waiting.recv().await else { return };
            batch.push(first);
        }
        let mut outcomes: usize = batch.iter().map(|it| it.report.outcomes.len()).sum();
        while batch.len() < MAX_BATCH && outcomes < MAX_OUTCOMES {
            let Ok(next) = waiting.try_recv() else { break };
            outcomes += next.report.outcomes.len();
            batch.push(next);
        }
        let (reports, answers): (Vec<_>, Vec<_>) = batch.drain(..).map(|it| (it.report, it.answer)).unzip();
        #[cfg(feature = "sabotage")]
        let answers = if crate::sabotage::Sabotage::AckBeforeCommit.is_on() {
            acknowledge_first(&reports, answers).await
        } else {
            answers
        };
        commit(&store, &nudges, &mut poison, &reports, answers).await;
    }
}

/// Breaks the invariant, and leaves time for a kill between answer and commit.
#[cfg(feature = "sabotage")]
async fn acknowledge_first(reports: &[DeviceReport], answers: Vec<Answer>) -> Vec<Answer> {
    for (report, answer) in reports.iter().zip(answers) {
        let acked_seq = report.outcomes.iter().map(|(seq, _)| *seq).max().unwrap_or(0);
        let _ = answer.send(Ok(ReportRecorded { acked_seq, ..ReportRecorded::default() }.into()));
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    Vec::new()
}

async fn commit(store: &Store, nudges: &Nudges, poison: &mut Poison, reports: &[DeviceReport], answers: Vec<Answer>) {
    match record(store, reports).await {
        Ok(recorded) => {
            poison.cleared(reports);
            for (answer, recorded) in answers.into_iter().zip(recorded) {
                // A caller that gave up sends the report again and gets its duplicates acknowledged.
                let _ = answer.send(Ok(recorded.into()));
            }
        }
        // What is wrong with the database as such would be no better a report at a time.
        Err(error) if error.is_transient() => {
            tracing::error!(error = &error as &dyn std::error::Error, reports = reports.len(), "reports not recorded");
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
            return;
        }
        // One bad report must not take its neighbours with it.
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "batch refused, recording its reports one by one");
            for (report, answer) in reports.iter().zip(answers) {
                if !answer.is_closed() {
                    let _ = answer.send(poison.record_one(store, report).await);
                }
            }
        }
    }
    nudges.decide();
    nudges.verify();
}

/// One transaction, or none: a database that hangs is one that does not answer.
pub(super) async fn record(store: &Store, reports: &[DeviceReport]) -> Result<Vec<ReportRecorded>, StoreError> {
    tokio::time::timeout(COMMIT_LIMIT, store.reports_record(reports))
        .await
        .unwrap_or_else(|_| Err(StoreError::Busy { operation: "report", source: Arc::new(sqlx::Error::PoolTimedOut) }))
}
