//! PostgreSQL goes away for twenty seconds: agents keep what they have, nothing is lost, and all goes on when it is back.

use std::time::{Duration, Instant};

use fleetmend_tests::postgres::PrivatePostgres;

use super::{
    invariants, kills,
    processes::{Fleet, Size},
};

const BEFORE: Duration = Duration::from_secs(12);
const AWAY: Duration = Duration::from_secs(20);
const WORKS_AGAIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn slow_postgres_stopped_for_20_s() {
    let cluster = PrivatePostgres::start().expect("PostgreSQL starts");
    outage(&cluster).await.expect("the fleet survives");
}

async fn outage(cluster: &PrivatePostgres) -> anyhow::Result<()> {
    let size = Size { processes: 2, pcs_each: 20, speed: 5_000.0, seed: kills::seed() };
    let mut fleet = Fleet::start(size, Some(cluster.url())).await?;
    tokio::time::sleep(BEFORE).await;
    let before = fleet.store().summary().await?;
    anyhow::ensure!(before.outcomes > 0, "nothing was reported before the outage");

    cluster.stop()?;
    let stopped = Instant::now();
    while stopped.elapsed() < AWAY {
        tokio::time::sleep(Duration::from_millis(500)).await;
        fleet.check_alive()?;
    }
    cluster.resume()?;
    // New outcomes are recorded and orders end: ingest, loops and streams all work.
    let took = fleet
        .wait_for("reports and orders go on", WORKS_AGAIN, async |it| {
            let Ok(now) = it.store().summary().await else { return Ok(false) };
            let ended = |summary: &fleetmend_controller::store::Summary| -> i64 {
                summary.orders.iter().filter(|it| it.state.is_final()).map(|it| it.count).sum()
            };
            Ok(now.outcomes > before.outcomes && ended(&now) > ended(&before))
        })
        .await?;
    fleet.no_more_failures()?;
    kills::settle(&mut fleet, 0).await?;
    fleet.stop_pcs()?;
    fleet.flush()?;
    fleet.stop_controller()?;
    invariants::assert_all(fleet.url(), &fleet.folders()).await?;
    let after = fleet.store().summary().await?;
    println!(
        "PostgreSQL was away for {AWAY:?}; {took:?} later all went on; {} outcomes before it, {} at the end, none lost",
        before.outcomes, after.outcomes
    );
    Ok(())
}
