//! An update that fails everywhere is replaced by its maker: the incident ends, and nobody goes on repairing a healthy PC.

use std::{sync::Arc, time::Duration};

use fleetmend_agent::{
    config::{Config as AgentConfig, LinkSettings},
    guard::LocalPolicy,
    runner::{self, AgentParts},
};
use fleetmend_controller::store::{IncidentFilter, IncidentRow, PageRequest, Summary};
use fleetmend_domain::{incident::StateName, policy::Posture};
use fleetmend_proto::{Clock, Tier};
use fleetmend_simulator::{
    ScaledClock,
    pc::{Options, Pc, causes::Cause, profile::Profile},
};
use fleetmend_tests::fleet::{On, TestFleet, eventually};
use tokio_util::sync::CancellationToken;

const SPEED: f64 = 20_000.0;
const SOON: Duration = Duration::from_secs(60);

async fn incidents(fleet: &TestFleet) -> anyhow::Result<Vec<IncidentRow>> {
    Ok(fleet.store().incident_list(&IncidentFilter::default(), &PageRequest::default()).await?.items)
}

fn heavy(summary: &Summary) -> i64 {
    let heavy = summary.orders.iter().filter(|it| it.tier.is_some_and(|tier| tier > Tier::Troubleshoot));
    heavy.map(|it| it.count).sum()
}

/// A PC whose replacement needs no restart.
fn profile() -> Profile {
    let is_plain = |profile: &Profile| {
        let title = profile.replacement_of_bad_update().title;
        !profile.dice.chance(&format!("reboot owed {title}"), 0.4)
    };
    (0..100).map(|index| Profile::new(3, index)).find(is_plain).expect("most need none")
}

fn agent_config(fleet: &TestFleet, token: &str) -> anyhow::Result<AgentConfig> {
    let data_dir = fleet.folder().join("agent");
    let token_file = fleet.folder().join("token");
    std::fs::write(&token_file, token)?;
    Ok(AgentConfig {
        enrollment: fleet.light.enrollment.clone(),
        agent: fleet.light.agents.clone(),
        server_root: fleet.light.server_root.clone(),
        fleet: fleet.light.fleet,
        order_keys: fleet.light.order_keys.clone(),
        data_dir,
        enrollment_token_file: Some(token_file),
        package_folder: None,
        policy: LocalPolicy::default(),
        detect_interval: Duration::from_secs(3600),
        condition_interval: Duration::from_secs(24 * 3600),
        link: LinkSettings::default(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_update_closes_its_incident_and_the_ladder_stops() -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(ScaledClock::starting_now(SPEED)?);
    let fleet = TestFleet::start_in(On::Sqlite, Arc::clone(&clock), |config| {
        config.policy.posture = Posture::Recommended;
        config.limits.agents.device_messages_per_minute = 0;
    })
    .await?;
    let profile = profile();
    let bad = profile.episode_of(0, Cause::BadUpdate, Cause::BadUpdate.plain_code());
    let pc = Pc::open(&fleet.folder().join("pc"), profile, Arc::clone(&clock), Options::default())?;
    pc.arrive(&bad)?;
    let config = agent_config(&fleet, &fleet.token(1, true).await?)?;
    let stop = CancellationToken::new();
    let agent = AgentParts { config, platform: pc.start_agent()?, clock: Arc::clone(&clock) };
    let agent = tokio::spawn(runner::run(agent, stop.clone()));

    eventually("the bad update is worked on", SOON, || async { Ok(!fleet.store().summary().await?.orders.is_empty()) })
        .await?;
    pc.replace_bad_update()?;
    assert!(pc.state(|state| state.is_installed(&bad.update)), "the replacement is installed");
    let before = heavy(&fleet.store().summary().await?);
    eventually("the incident is resolved", SOON, || async {
        Ok(incidents(&fleet).await?.iter().all(|it| it.state == StateName::Resolved))
    })
    .await?;
    let summary = fleet.store().summary().await?;
    assert_eq!(heavy(&summary), before, "heavier orders for a PC that is well: {:?}", summary.orders);
    stop.cancel();
    agent.await??;
    fleet.stop().await;
    Ok(())
}
