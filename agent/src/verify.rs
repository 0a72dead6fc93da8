//! Proof before result: what Windows recorded reaches the controller before the agent says how an order ended.
//!
//! The agent judges nothing here. Whether the failed update is installed is what detection reads in Windows' own
//! records, and the controller compares; an exit code never proves anything. Called by the link before it tells an end.

use async_trait::async_trait;

use crate::{
    link::{failure::chain, orders::ProofFirst, report::Reporter},
    runner::Records,
};

/// Reads the records once more and waits until all that was found is acknowledged.
#[derive(Debug)]
pub struct Proof<'a> {
    pub records: &'a Records,
    pub reporter: &'a Reporter,
}

#[async_trait]
impl ProofFirst for Proof<'_> {
    async fn proof_sent(&self) {
        // Without proof the controller waits for its verification deadline; the order's end must be told all the same.
        if let Err(error) = self.records.look().await {
            tracing::warn!(error = %chain(&error), "records cannot be read after an order; its end is told without them");
        }
        if let Err(error) = self.reporter.flushed().await {
            tracing::warn!(error = %chain(&error), "outbox cannot be read after an order; its end is told all the same");
        }
    }
}
