//! Words of reasons: codes, spans, counts and lists as people say them. Decides nothing.

use chrono::{DateTime, Duration, Utc};
use fleetmend_proto::{Action, Tier};

use super::View;

impl View<'_> {
    /// `0x80073712 (ERROR_SXS_COMPONENT_STORE_CORRUPT)`.
    pub fn code_name(&self) -> String {
        if self.row.symbol.is_empty() {
            self.case.code.to_string()
        } else {
            format!("{} ({})", self.case.code, self.row.symbol)
        }
    }
}

/// What an order of it would be, as in "it would order ...".
pub(super) fn action(action: &Action) -> String {
    match action {
        Action::Reboot => "a restart".to_owned(),
        Action::HideUpdate => "hiding the offer".to_owned(),
        Action::RepairInstall { .. } => "an in-place repair, charged to tier 5".to_owned(),
        Action::Retry
        | Action::Troubleshoot
        | Action::RepairImage
        | Action::ResetComponents
        | Action::InstallManually { .. }
        | Action::ResetPc(_) => action.tier().map_or_else(|| action.name().to_owned(), |tier| format!("tier {tier}")),
    }
}

/// `15 minutes`, `4 hours`, `21 days`: the largest unit that says it exactly, seconds dropped.
pub(super) fn span(span: Duration) -> String {
    let minutes = span.num_minutes();
    if minutes > 0 && minutes % 1440 == 0 {
        counted(minutes / 1440, "day")
    } else if minutes > 0 && minutes % 60 == 0 {
        counted(minutes / 60, "hour")
    } else {
        counted(minutes, "minute")
    }
}

fn counted(number: i64, unit: &str) -> String {
    if number == 1 { format!("1 {unit}") } else { format!("{number} {unit}s") }
}

/// `once`, `twice`, `3 times`.
pub(super) fn times(number: usize) -> String {
    match number {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{number} times"),
    }
}

/// `2026-11-22 16:40 UTC`.
pub(super) fn moment(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// `tier 3 (RepairImage) and tier 4 (ResetComponents)`.
pub(super) fn tiers(tiers: &[Tier]) -> String {
    let named: Vec<_> = tiers.iter().map(|tier| format!("tier {tier}")).collect();
    match named.split_last() {
        None => "no tier".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_counts_and_lists_read_as_people_say_them() {
        assert_eq!(span(Duration::minutes(15)), "15 minutes");
        assert_eq!(span(Duration::hours(1)), "1 hour");
        assert_eq!(span(Duration::hours(24)), "1 day");
        assert_eq!(span(Duration::hours(36)), "36 hours");
        assert_eq!(span(Duration::zero()), "0 minutes");
        assert_eq!((times(1), times(2), times(3)), ("once".to_owned(), "twice".to_owned(), "3 times".to_owned()));
        assert_eq!(tiers(&[]), "no tier");
        assert_eq!(tiers(&Tier::ALL[..1]), "tier 1 (Retry)");
        assert_eq!(tiers(&Tier::ALL[..3]), "tier 1 (Retry), tier 2 (Troubleshoot) and tier 3 (RepairImage)");
    }
}
