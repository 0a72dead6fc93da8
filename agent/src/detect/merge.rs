//! Puts records of different streams about one attempt together and makes outcomes of them. Pure.
//!
//! Two records of one stream are two attempts, always. Records of different streams are one attempt when they name the
//! same update, operation and result within ten minutes; the nearest in time find each other first.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_domain::catalogue::is_wrapper;
use fleetmend_proto::{Kb, Operation, Outcome, OutcomeResult, UpdateRef};
use uuid::Uuid;

use super::{
    codes,
    naming::kind_of,
    record::{Mark, Record, Stream},
};

/// How far apart two sources may record one attempt.
const WINDOW: TimeDelta = TimeDelta::minutes(10);
/// How far apart two channels may hold copies of one event.
const CHANNEL_WINDOW: TimeDelta = TimeDelta::seconds(2);
/// Neighbours in time that are compared on either side: bounds the work on logs made to be slow.
const NEIGHBOURS: usize = 8;

/// Records of one attempt, at most one of each stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Index of the attempt that was known before and that these records belong to.
    pub known: Option<usize>,
    /// Indexes of records, ascending.
    pub records: Vec<usize>,
}

/// Sorts `records` into attempts; those of `known` were reported before and only take in late records.
#[must_use]
pub fn attempts(known: &[Vec<Mark>], records: &[Record]) -> Vec<Attempt> {
    // Groups start as the known attempts and one group for each record.
    let mut groups: Vec<Vec<&Mark>> = known.iter().map(|marks| marks.iter().collect()).collect();
    groups.extend(records.iter().map(|record| vec![&record.mark]));
    let mut group_of: Vec<usize> = (0..groups.len()).collect();

    for (left, right) in pairs(&groups) {
        let (left, right) = (root(&mut group_of, left), root(&mut group_of, right));
        let (into, from) = (left.min(right), left.max(right));
        let both_known = from < known.len();
        let fits = |mark: &&Mark| groups.get(into).is_some_and(|group| group.iter().all(|it| is_compatible(it, mark)));
        if into == from || both_known || !groups.get(from).is_some_and(|group| group.iter().all(fits)) {
            continue;
        }
        let moved = groups.get_mut(from).map(std::mem::take).unwrap_or_default();
        if let (Some(group), Some(parent)) = (groups.get_mut(into), group_of.get_mut(from)) {
            group.extend(moved);
            *parent = into;
        }
    }

    let mut attempts: BTreeMap<usize, Attempt> = BTreeMap::new();
    for index in 0..records.len() {
        let group = root(&mut group_of, known.len() + index);
        let attempt = attempts.entry(group).or_default();
        attempt.known = (group < known.len()).then_some(group);
        attempt.records.push(index);
    }
    attempts.into_values().collect()
}

/// One outcome of the records of one attempt; `None` for no records.
#[must_use]
pub fn outcome(records: &[&Record]) -> Option<Outcome> {
    let mut ranked = records.to_vec();
    ranked.sort_by_key(|record| record.mark.stream);
    let winner = ranked.first()?;
    // The Setup log has the code of the package itself, so it is asked first.
    let (setup, others): (Vec<&Record>, Vec<&Record>) =
        ranked.iter().skip(1).partition(|record| record.mark.stream == Stream::SetupLog);
    let code = codes::effective(winner.code, setup.iter().chain(&others).map(|record| record.code));
    let named = ranked.iter().find(|record| record.mark.update_id.is_some());
    let kb = ranked.iter().find_map(|record| record.mark.kb);
    let title = ranked.iter().map(|record| record.title.as_str()).find(|title| !title.is_empty()).unwrap_or_default();
    let service = ranked.iter().find_map(|record| record.service);
    Some(Outcome {
        update: UpdateRef {
            update_id: named.and_then(|record| record.mark.update_id),
            revision: named.and_then(|record| record.mark.revision).unwrap_or_default(),
            kb,
            title: title.to_owned(),
            kind: kind_of(title, kb, service),
            supersedes: Vec::new(),
        },
        operation: winner.mark.operation,
        result: winner.mark.result,
        code,
        raw_code: winner.code,
        occurred_at: winner.mark.at,
        source: winner.mark.stream.source(),
    })
}

/// Whether records of other sources may still say what these leave open: which update it is, or the code inside the one
/// that wraps it.
#[must_use]
pub fn is_told_in_part(records: &[&Record]) -> bool {
    outcome(records).is_some_and(|it| it.update.update_id.is_none() || is_wrapper(it.code))
}

/// What records that may belong together have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Id(Uuid, Operation, OutcomeResult),
    Kb(Kb, Operation, OutcomeResult),
}

fn keys(mark: &Mark) -> impl Iterator<Item = Key> {
    let id = mark.update_id.map(|id| Key::Id(id, mark.operation, mark.result));
    let kb = mark.kb.map(|kb| Key::Kb(kb, mark.operation, mark.result));
    id.into_iter().chain(kb)
}

/// When, in which group, and what.
type Placed<'a> = (DateTime<Utc>, usize, &'a Mark);

/// Pairs of groups that speak of the same attempt, the nearest in time first.
fn pairs(groups: &[Vec<&Mark>]) -> Vec<(usize, usize)> {
    let mut index: HashMap<(Key, Stream), Vec<Placed<'_>>> = HashMap::new();
    for (group, marks) in groups.iter().enumerate() {
        for &mark in marks {
            for key in keys(mark) {
                index.entry((key, mark.stream)).or_default().push((mark.at, group, mark));
            }
        }
    }
    for marks in index.values_mut() {
        marks.sort_by_key(|(at, group, _)| (*at, *group));
    }
    let mut pairs = Vec::new();
    for (group, marks) in groups.iter().enumerate() {
        for &mark in marks {
            for (key, stream) in keys(mark).flat_map(|key| Stream::ALL.map(|stream| (key, stream))) {
                // Each pair of streams once, from its first side.
                let Some(others) = index.get(&(key, stream)).filter(|_| stream > mark.stream) else { continue };
                let middle = others.partition_point(|(at, _, _)| *at < mark.at);
                let near = others.get(middle.saturating_sub(NEIGHBOURS)..(middle + NEIGHBOURS).min(others.len()));
                for (at, other_group, other) in near.unwrap_or_default() {
                    if is_named_alike(mark, other) && is_compatible(mark, other) {
                        pairs.push(((*at - mark.at).abs(), group, *other_group));
                    }
                }
            }
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs.into_iter().map(|(_, left, right)| (left, right)).collect()
}

/// The same update id and revision, or the same KB where one side has no id.
fn is_named_alike(a: &Mark, b: &Mark) -> bool {
    if a.update_id.is_some() && b.update_id.is_some() {
        a.update_id == b.update_id && is_same_or_unknown(a.revision, b.revision)
    } else {
        a.kb.is_some() && a.kb == b.kb
    }
}

/// Whether nothing speaks against both being records of one attempt.
fn is_compatible(a: &Mark, b: &Mark) -> bool {
    let is_channel_copy =
        matches!((a.stream, b.stream), (Stream::System, Stream::Operational) | (Stream::Operational, Stream::System));
    let window = if is_channel_copy { CHANNEL_WINDOW } else { WINDOW };
    let is_one_update = if a.update_id.is_some() && b.update_id.is_some() {
        is_named_alike(a, b)
    } else {
        is_same_or_unknown(a.kb, b.kb)
    };
    a.stream != b.stream
        && a.operation == b.operation
        && a.result == b.result
        && is_one_update
        && (a.at - b.at).abs() <= window
}

fn is_same_or_unknown<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
    a.is_none() || b.is_none() || a == b
}

/// The group that a group has become part of, shortening the way there.
fn root(group_of: &mut [usize], group: usize) -> usize {
    let mut at = group;
    while let Some(&parent) = group_of.get(at)
        && parent != at
    {
        let grandparent = group_of.get(parent).copied().unwrap_or(parent);
        if let Some(slot) = group_of.get_mut(at) {
            *slot = grandparent;
        }
        at = grandparent;
    }
    at
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
