//! What must hold whatever broke meanwhile; every fault test ends here. Each check gives sentences, one a violation.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_agent::{detect, identity::Identity};
use fleetmend_controller::store::{IncidentFilter, IncidentRow, OrderFilter, OrderRow, PageRequest, Store};
use fleetmend_domain::{
    incident::StateName,
    order::{Event, State, next},
};
use fleetmend_proto::{DeviceId, OrderId};
use fleetmend_simulator::pc::effects;
use uuid::Uuid;

use super::rows::{EventRow, Raw, Tally};

/// A simulated PC that is switched off: its own disk and its agent's.
#[derive(Clone, Debug)]
pub struct PcFolders {
    pub pc: PathBuf,
    pub agent: PathBuf,
}

/// Fails with every violation there is.
pub async fn assert_all(url: &str, pcs: &[PcFolders]) -> anyhow::Result<()> {
    let store = Store::connect(url).await?;
    let raw = Raw::connect(url).await?;
    let (orders, incidents) = (all_orders(&store).await?, all_incidents(&store).await?);
    let mut violations = lost_or_doubled(&raw.outcomes().await?, pcs)?;
    violations.extend(executed_twice(pcs)?);
    violations.extend(illegal_histories(&raw.order_events().await?, &orders));
    violations.extend(illegal_states(&orders, &incidents));
    store.close().await;
    assert_none(&violations);
    Ok(())
}

/// Fails with the violations, if any.
pub fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

/// Every outcome that Windows recorded on a PC's disk is in the store exactly once.
fn lost_or_doubled(stored: &BTreeMap<DeviceId, Tally>, pcs: &[PcFolders]) -> anyhow::Result<Vec<String>> {
    let mut violations = Vec::new();
    for pc in pcs {
        let device = Identity::load(&pc.agent)?.with_context(|| format!("{:?} is not enrolled", pc.agent))?.device();
        let on_disk = recorded(&pc.pc)?;
        let none = Tally::new();
        let stored = stored.get(&device).unwrap_or(&none);
        for what in on_disk.keys().chain(stored.keys().filter(|what| !on_disk.contains_key(*what))) {
            let (disk, store) = (on_disk.get(what).unwrap_or(&0), stored.get(what).unwrap_or(&0));
            if disk != store {
                let (result, code) = what;
                violations.push(format!(
                    "device {device}: {disk} outcomes {result} {code} on its disk, {store} in the store ({:?})",
                    pc.pc
                ));
            }
        }
    }
    Ok(violations)
}

/// What Windows' records on a PC's disk say, read anew.
fn recorded(pc: &Path) -> anyhow::Result<Tally> {
    let mut tally = Tally::new();
    for outcome in detect::outcomes_in(pc)?.outcomes {
        *tally.entry((outcome.result.word().to_owned(), outcome.code.to_string())).or_default() += 1;
    }
    Ok(tally)
}

/// The PCs' own logs of effects, and nothing else, say what was executed.
fn executed_twice(pcs: &[PcFolders]) -> anyhow::Result<Vec<String>> {
    let mut violations = Vec::new();
    for pc in pcs {
        violations.extend(effects::audit(&pc.pc)?.into_iter().map(|it| format!("{:?}: {it}", pc.pc)));
    }
    Ok(violations)
}

/// Which orders left effects on the PCs' own logs: a check of effects that saw none would prove nothing.
pub fn orders_with_effects(pcs: &[PcFolders]) -> anyhow::Result<HashSet<OrderId>> {
    let mut orders = HashSet::new();
    for pc in pcs {
        orders.extend(effects::list(&pc.pc)?.into_iter().map(|effect| effect.order));
    }
    Ok(orders)
}

/// Replays the history of each device's orders: legal steps only, and never two active ones at any moment of it.
pub fn illegal_histories(events: &[EventRow], orders: &[OrderRow]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut states: HashMap<Uuid, State> = HashMap::new();
    let mut active: HashMap<Uuid, Uuid> = HashMap::new();
    for event in events {
        let (Some(device), Some(order)) = (event.device_id, event.order_id) else {
            violations.push(format!("event {} names an order and no device", event.id));
            continue;
        };
        let before = states.get(&order).copied();
        let after = match (event.kind.as_str(), before) {
            ("decided", None) => Ok(State::Queued),
            // What comes from somebody who no longer holds the order moves nothing.
            ("order_evidence", Some(state)) => Ok(state),
            ("verified", Some(state)) if state.is_final() => Ok(state),
            (kind, Some(state)) => step(state, kind, &event.data),
            (kind, None) => Err(format!("{kind} before the order was placed")),
        };
        match after {
            Ok(state) => {
                states.insert(order, state);
                if state.is_final() {
                    active.remove(&device);
                } else if let Some(other) = active.insert(device, order).filter(|other| *other != order) {
                    violations
                        .push(format!("event {}: device {device} had orders {other} and {order} at once", event.id));
                }
            }
            Err(why) => violations.push(format!("event {}, order {order}: {why}", event.id)),
        }
    }
    for order in orders {
        let told = states.get(&order.id.0).copied();
        if told != Some(order.state) {
            violations.push(format!("order {} is {}, its history ends with {told:?}", order.id, order.state));
        }
    }
    violations
}

fn step(state: State, kind: &str, data: &str) -> Result<State, String> {
    let event = match kind {
        "order_leased" => Event::Leased,
        "lease_lapsed" => Event::LeaseLapsed,
        "order_begun" => Event::Begun,
        "order_awaits_reboot" => Event::RebootAwaited,
        "order_resumed" => Event::Resumed,
        "order_ended" => return ended(state, data),
        other => return Err(format!("{other} is no event of an order")),
    };
    next(state, event).map_err(|error| error.to_string())
}

fn ended(state: State, data: &str) -> Result<State, String> {
    let data: serde_json::Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
    let word = data.get("state").and_then(serde_json::Value::as_str).unwrap_or_default();
    let end = State::from_word(word).filter(|it| it.is_final()).ok_or_else(|| format!("{word:?} is no end"))?;
    let possible = Event::ALL.iter().any(|event| next(state, *event) == Ok(end));
    if possible { Ok(end) } else { Err(format!("{state} became {end}")) }
}

/// Rows that contradict themselves or each other. That words parse was checked in reading them.
pub fn illegal_states(orders: &[OrderRow], incidents: &[IncidentRow]) -> Vec<String> {
    let mut violations = Vec::new();
    let by_id: HashMap<OrderId, &OrderRow> = orders.iter().map(|order| (order.id, order)).collect();
    let mut active: HashMap<DeviceId, OrderId> = HashMap::new();
    for order in orders {
        let mut wrong = |why: &str| violations.push(format!("order {} ({}): {why}", order.id, order.state));
        if order.state.is_active()
            && let Some(other) = active.insert(order.device, order.id)
        {
            wrong(&format!("order {other} of the same device is active too"));
        }
        if order.state.is_final() != order.ended_at.is_some() {
            wrong("state and ended_at disagree");
        }
        match order.state {
            State::Leased if order.lease_until.is_none() || order.fence.is_none() => wrong("leased without a lease"),
            State::Running | State::AwaitingReboot | State::AwaitingReturn if order.run_deadline_at.is_none() => {
                wrong("begun without a deadline");
            }
            _ => {}
        }
    }
    for incident in incidents {
        let mut wrong = |why: &str| violations.push(format!("incident {} ({}): {why}", incident.id, incident.state));
        let ended = matches!(incident.state, StateName::Resolved | StateName::Benign | StateName::Dismissed);
        if ended != incident.closed_at.is_some() {
            wrong("state and closed_at disagree");
        }
        match incident.state {
            StateName::Open
            | StateName::Held
            | StateName::Scheduled
            | StateName::Verifying
            | StateName::Exhausted
            | StateName::HandedOver
            | StateName::AwaitingApproval => {
                if incident.due_at.is_none() {
                    wrong("it waits and nobody will look at it");
                }
            }
            StateName::Remediating => {
                let order = incident.order.and_then(|order| by_id.get(&order));
                if order.is_none_or(|order| order.state.is_final() || order.incident != incident.id) {
                    wrong("its order is not out");
                }
            }
            StateName::Resolved | StateName::Benign | StateName::Dismissed => {
                if incident.due_at.is_some() {
                    wrong("it has ended and somebody will look at it");
                }
            }
        }
    }
    violations
}

/// What has waited for longer than `grace` after its time, while a controller was running. Domain time and wall clock.
pub async fn overdue(
    store: &Store,
    now: DateTime<Utc>,
    wall: DateTime<Utc>,
    grace: TimeDelta,
    wall_grace: TimeDelta,
) -> anyhow::Result<Vec<String>> {
    let mut late = Vec::new();
    for incident in all_incidents(store).await? {
        if let Some(due) = incident.due_at.filter(|due| *due + grace < now) {
            late.push(format!("incident {} ({}) was due at {due}, it is {now}", incident.id, incident.state));
        }
    }
    for order in all_orders(store).await? {
        let passed = |at: Option<DateTime<Utc>>| at.is_some_and(|at| at + grace < now);
        let is_late = match order.state {
            State::Queued => passed(Some(order.expires_at)),
            State::Leased => order.lease_until.is_some_and(|until| until + wall_grace < wall),
            State::Running | State::AwaitingReboot | State::AwaitingReturn => passed(order.run_deadline_at),
            _ => false,
        };
        if is_late {
            late.push(format!("order {} is {} past its time", order.id, order.state));
        }
    }
    Ok(late)
}

pub async fn all_orders(store: &Store) -> anyhow::Result<Vec<OrderRow>> {
    let mut page = PageRequest { cursor: None, limit: Some(1_000) };
    let mut all = Vec::new();
    loop {
        let found = store.order_list(&OrderFilter::default(), &page).await?;
        all.extend(found.items);
        let Some(cursor) = found.next else { return Ok(all) };
        page.cursor = Some(cursor);
    }
}

pub async fn all_incidents(store: &Store) -> anyhow::Result<Vec<IncidentRow>> {
    let mut page = PageRequest { cursor: None, limit: Some(1_000) };
    let mut all = Vec::new();
    loop {
        let found = store.incident_list(&IncidentFilter::default(), &page).await?;
        all.extend(found.items);
        let Some(cursor) = found.next else { return Ok(all) };
        page.cursor = Some(cursor);
    }
}
