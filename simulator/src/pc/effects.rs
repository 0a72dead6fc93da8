//! Judges from a PC's own log whether anything was executed twice. It looks at the effects alone: what an agent's
//! journal or a controller's database say of them does not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use fleetmend_proto::OrderId;

use super::{
    change::Change,
    log::{self, Effect, Line, LogError},
};

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub order: OrderId,
    pub step: u32,
    pub rule: Rule,
    /// The effect that breaks it.
    pub effect: Effect,
}

/// The rules of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A step before the one that had begun was begun again: the order ran from the start, or two runs at once.
    WentBack,
    /// The same effect of a step twice, with no restart of the agent in between.
    Repeated,
    /// An effect that may happen once happened again.
    OnceOnly,
    /// Another order's effects came in between: two orders at once.
    Interleaved,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { order, step, rule, effect } = self;
        let why = match rule {
            Rule::WentBack => "a later step had begun before",
            Rule::Repeated => "it was done before by the same agent process",
            Rule::OnceOnly => "it may be done once only",
            Rule::Interleaved => "another order had begun meanwhile",
        };
        let Effect { primitive, detail, instance, boot, at, .. } = effect;
        write!(
            f,
            "order {order} step {step}: {primitive} {detail} by agent process {instance} in boot {boot} at {at}: {why}"
        )
    }
}

/// Audits the log of a PC's folder.
///
/// # Errors
/// [`LogError`] where the log cannot be read.
pub fn audit(dir: &Path) -> Result<Vec<Violation>, LogError> {
    let lines = log::read(dir)?;
    let mut violations = hidden_again(&lines);
    violations.extend(judge(lines.into_iter().filter_map(effect)));
    Ok(violations)
}

/// All effects of a PC's folder, oldest first.
///
/// # Errors
/// [`LogError`] where the log cannot be read.
pub fn list(dir: &Path) -> Result<Vec<Effect>, LogError> {
    Ok(log::read(dir)?.into_iter().filter_map(effect).collect())
}

fn effect(line: Line) -> Option<Effect> {
    match line {
        Line::Effect(effect) => Some(effect),
        Line::Change(_) => None,
    }
}

/// An order that hides what it has hidden already was executed again. One whose first try was cut off before it took
/// hold may try again, and only the changes tell.
fn hidden_again(lines: &[Line]) -> Vec<Violation> {
    let (mut asked, mut done, mut violations) = (None, BTreeSet::new(), Vec::new());
    for line in lines {
        match line {
            Line::Effect(effect) if effect.primitive == "set_hidden" && !may_undo(effect) => {
                if done.contains(&effect.order) {
                    let (order, step) = (effect.order, effect.step);
                    violations.push(Violation { order, step, rule: Rule::Repeated, effect: effect.clone() });
                }
                asked = Some(effect.order);
            }
            Line::Change(Change::HiddenSet { hidden: true, .. }) => done.extend(asked.take()),
            Line::Effect(_) | Line::Change(_) => {}
        }
    }
    violations
}

#[derive(Default)]
struct OrderSoFar {
    highest: u32,
    seen: Vec<Effect>,
    overtaken: bool,
}

/// The audit itself, over effects in the order they began.
pub fn judge(effects: impl Iterator<Item = Effect>) -> Vec<Violation> {
    let mut orders: BTreeMap<OrderId, OrderSoFar> = BTreeMap::new();
    let mut newest: Option<OrderId> = None;
    let mut violations = Vec::new();
    for effect in effects {
        if newest != Some(effect.order) && !may_undo(&effect) {
            if let Some(left) = newest.and_then(|order| orders.get_mut(&order)) {
                left.overtaken = true;
            }
            newest = Some(effect.order);
        }
        let order = orders.entry(effect.order).or_default();
        if let Some(rule) = broken_rule(order, &effect) {
            violations.push(Violation { order: effect.order, step: effect.step, rule, effect: effect.clone() });
        }
        order.highest = order.highest.max(effect.step);
        order.seen.push(effect);
    }
    violations
}

fn broken_rule(order: &OrderSoFar, effect: &Effect) -> Option<Rule> {
    if may_undo(effect) {
        // Undoing goes backwards, comes after a crash again, and doing it twice is the same as once.
        return None;
    }
    let same = |other: &&Effect| {
        other.step == effect.step && other.primitive == effect.primitive && other.detail == effect.detail
    };
    let before = order.seen.iter().rev().find(same);
    let once = |other: &Effect| once_only(effect).is_some() && once_only(other) == once_only(effect);
    if order.seen.iter().any(once) {
        Some(Rule::OnceOnly)
    } else if order.overtaken {
        Some(Rule::Interleaved)
    } else if effect.step < order.highest {
        Some(Rule::WentBack)
    } else if before.is_some_and(|before| before.instance == effect.instance) && !is_search(effect) {
        Some(Rule::Repeated)
    } else {
        None
    }
}

/// Effects that take others back or bring services up: nothing tells them apart from an undoing, which may come late.
fn may_undo(effect: &Effect) -> bool {
    match effect.primitive.as_str() {
        "put_back" | "start_service" | "stop_service" | "call_off_reboot" => true,
        // What a fix enabled is disabled again, what a pause wrote is deleted, what was hidden is shown.
        "set_start_type" => effect.detail.ends_with("Disabled"),
        "set_registry_string" => effect.detail.ends_with("= None"),
        "set_hidden" => effect.detail.ends_with("false"),
        _ => false,
    }
}

/// Asks and waits: changes nothing that lasts.
fn is_search(effect: &Effect) -> bool {
    effect.primitive == "offers"
}

/// What an order does at most once, whatever happens to agent and PC meanwhile, by its kind.
fn once_only(effect: &Effect) -> Option<&'static str> {
    match effect.primitive.as_str() {
        "install" => Some("install"),
        "reboot" => Some("reboot"),
        "reset_pc" => Some("reset"),
        "run" if effect.detail.starts_with("Wusa ") || effect.detail.contains("/Add-Package") => Some("package"),
        "run" if effect.detail.starts_with("SetupMedia") => Some("setup"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_proto::clock::wall_now;
    use uuid::Uuid;

    use super::*;

    fn effect(order: u128, step: u32, primitive: &str, instance: u64) -> Effect {
        Effect {
            at: wall_now(),
            order: OrderId(Uuid::from_u128(order)),
            step,
            primitive: primitive.to_owned(),
            detail: "x".to_owned(),
            instance,
            boot: instance,
        }
    }

    fn saying(detail: &str, effect: Effect) -> Effect {
        Effect { detail: detail.to_owned(), ..effect }
    }

    fn rules(effects: impl IntoIterator<Item = Effect>) -> Vec<Rule> {
        judge(effects.into_iter()).into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_run_that_a_crash_interrupted_is_in_order() {
        let run = [
            effect(1, 0, "stop_service", 1),
            effect(1, 1, "set_aside", 1),
            effect(1, 0, "start_service", 2),
            effect(1, 1, "set_aside", 2),
            effect(1, 2, "install", 2),
            effect(2, 0, "offers", 2),
            effect(2, 0, "offers", 2),
        ];
        assert_eq!(rules(run), []);
    }

    #[test]
    fn each_rule_can_be_broken() {
        let again = [effect(1, 0, "run", 1), effect(1, 0, "run", 1)];
        assert_eq!(rules(again), [Rule::Repeated]);
        let from_the_start = [effect(1, 0, "run", 1), effect(1, 1, "install", 1), effect(1, 0, "run", 2)];
        assert_eq!(rules(from_the_start), [Rule::WentBack]);
        let restarted_again = [effect(1, 0, "reboot", 1), effect(1, 0, "reboot", 2)];
        assert_eq!(rules(restarted_again), [Rule::OnceOnly]);
        let package = |program: &str, instance| saying(program, effect(1, 0, "run", instance));
        let installed_again = [package("Wusa a.msu /quiet", 1), package("Dism /Online /Add-Package", 2)];
        assert_eq!(rules(installed_again), [Rule::OnceOnly]);
        assert_eq!(rules([package("Dism /Online /ScanHealth", 1), package("Dism /Online /ScanHealth", 2)]), []);
        for (primitive, forward, back) in [
            ("set_hidden", "Some(7) true", "Some(7) false"),
            ("set_registry_string", "a\\b = Some(\"x\")", "a\\b = None"),
            ("set_start_type", "bits Manual", "bits Disabled"),
        ] {
            let step = |detail, instance| saying(detail, effect(1, 1, primitive, instance));
            assert_eq!(rules([step(forward, 1), step(forward, 1)]), [Rule::Repeated], "{primitive}");
            assert_eq!(rules([step(forward, 1), step(forward, 2)]), [], "{primitive} after a crash");
            assert_eq!(rules([step(forward, 1), effect(2, 0, "run", 1), step(forward, 2)]), [Rule::Interleaved]);
            assert_eq!(
                rules([step(forward, 1), effect(2, 0, "run", 1), step(back, 2)]),
                [],
                "{primitive} taken back late"
            );
        }
        let two_at_once = [effect(1, 0, "run", 1), effect(2, 0, "run", 1), effect(1, 1, "install", 1)];
        assert_eq!(rules(two_at_once), [Rule::Interleaved]);
    }

    #[test]
    fn what_was_hidden_is_not_hidden_again() {
        let hide = || Line::Effect(saying("Some(7) true", effect(1, 1, "set_hidden", 1)));
        let hidden = || Line::Change(Change::HiddenSet { update_id: Uuid::from_u128(7), hidden: true });
        assert_eq!(hidden_again(&[hide(), hide(), hidden()]), [], "the first was cut off");
        let rules: Vec<_> = hidden_again(&[hide(), hidden(), hide()]).into_iter().map(|it| it.rule).collect();
        assert_eq!(rules, [Rule::Repeated]);
    }
}
