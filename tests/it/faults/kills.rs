//! kill -9 of the controller and of agents at random moments for a minute, while a hundred PCs fail and heal.

use std::time::{Duration, Instant};

use anyhow::ensure;
use chrono::TimeDelta;
use fleetmend_controller::store::Summary;
use fleetmend_domain::{incident::StateName, order::State};
use fleetmend_proto::{Clock as _, clock::wall_now};
use fleetmend_tests::postgres::PrivatePostgres;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    invariants,
    processes::{Fleet, Size},
};

const KILLING: Duration = Duration::from_secs(60);
/// Long enough for a lease that nobody began to lapse and be given again.
const SETTLING: Duration = Duration::from_secs(100);
/// How late a loop may be when nothing is killed. Real time.
const GRACE: Duration = Duration::from_secs(20);
/// Fewer would prove too little.
const LEAST_KILLS: u32 = 40;
/// Orders that must end after the last kill.
const ENDED_AFTER: i64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn slow_kill_nine_sqlite() {
    kill_nine(None).await.expect("the fleet survives");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_kill_nine_postgres() {
    let cluster = PrivatePostgres::start().expect("PostgreSQL starts");
    kill_nine(Some(cluster.url())).await.expect("the fleet survives");
}

/// `FLEETMEND_FAULT_SEED`, or another one every time.
pub fn seed() -> u64 {
    let given = std::env::var("FLEETMEND_FAULT_SEED").ok().and_then(|it| it.parse().ok());
    let seed = given.unwrap_or_else(|| u64::try_from(wall_now().timestamp()).unwrap_or(1));
    println!("FLEETMEND_FAULT_SEED={seed}");
    seed
}

async fn kill_nine(database: Option<String>) -> anyhow::Result<()> {
    let seed = seed();
    let size = Size { processes: 4, pcs_each: 25, speed: 5_000.0, seed };
    let mut fleet = Fleet::start(size, database).await?;
    let mut random = StdRng::seed_from_u64(seed);
    let (mut of_controller, mut of_agents) = (0_u32, 0_u32);
    let started = Instant::now();
    while started.elapsed() < KILLING {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..=1_500))).await;
        fleet.check_alive()?;
        // Half of the kills take the controller: it is one of five processes, and holds all promises.
        if random.random_bool(0.5) {
            fleet.kill_controller()?;
            of_controller += 1;
        } else {
            fleet.kill_pcs(random.random_range(0..fleet.processes()))?;
            of_agents += 1;
        }
    }
    let kills = of_controller + of_agents;
    fleet.no_more_failures()?;
    settle(&mut fleet, ENDED_AFTER).await?;
    fleet.stop_pcs()?;
    fleet.flush()?;
    fleet.stop_controller()?;
    invariants::assert_all(fleet.url(), &fleet.folders()).await?;

    let summary = fleet.store().summary().await?;
    let orders: i64 = summary.orders.iter().map(|it| it.count).sum();
    println!(
        "{kills} kills ({of_controller} of the controller, {of_agents} of agents), no violation: with 95 % certainty under \
         {:.1} % of kills cause one (3/N); {} outcomes, {orders} orders, {} escalations, incidents {:?}",
        300.0 / f64::from(kills),
        summary.outcomes,
        summary.escalations,
        summary.incidents,
    );
    assert!(kills >= LEAST_KILLS, "only {kills} kills");
    assert!(orders > 0 && summary.escalations > 0, "nothing climbed while processes were killed");
    // An order may find its update installed and do nothing; most do something, and the logs must show it.
    let executed: i64 = executed(&summary);
    let seen = invariants::orders_with_effects(&fleet.folders())?.len();
    assert!(
        i64::try_from(seen)? * 2 >= executed,
        "the PCs' logs show effects of {seen} orders, {executed} succeeded or failed"
    );
    Ok(())
}

/// Waits until the fleet has gone on by itself: `least_ended` orders ended since, or no incident is left to work on; and
/// nothing is late any more, so every loop came back to what the kills interrupted.
pub async fn settle(fleet: &mut Fleet, least_ended: i64) -> anyhow::Result<Duration> {
    let before = ended_orders(&fleet.store().summary().await?);
    let started = Instant::now();
    loop {
        fleet.check_alive()?;
        let (grace, wall_grace) = (fleet.domain(GRACE), TimeDelta::from_std(GRACE)?);
        let late = invariants::overdue(fleet.store(), fleet.clock().now(), wall_now(), grace, wall_grace).await?;
        let summary = fleet.store().summary().await?;
        let ended = ended_orders(&summary) - before;
        let open: i64 = OPEN.iter().filter_map(|name| summary.incidents.get(name)).sum();
        if late.is_empty() && (ended >= least_ended || open == 0) {
            return Ok(started.elapsed());
        }
        ensure!(
            started.elapsed() < SETTLING,
            "after {SETTLING:?}: {ended} orders ended since, {open} incidents are worked on, overdue:\n{}\n{}",
            late.join("\n"),
            fleet.logs()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Incidents that some loop has in hand.
const OPEN: [StateName; 4] = [StateName::Open, StateName::Scheduled, StateName::Remediating, StateName::Verifying];

fn executed(summary: &Summary) -> i64 {
    let ran = [State::Succeeded, State::Failed];
    summary.orders.iter().filter(|it| ran.contains(&it.state)).map(|it| it.count).sum()
}

fn ended_orders(summary: &Summary) -> i64 {
    summary.orders.iter().filter(|it| it.state.is_final()).map(|it| it.count).sum()
}
