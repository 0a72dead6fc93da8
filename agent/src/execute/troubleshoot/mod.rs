//! Tier 2: the Windows Update troubleshooter where Windows still has it, and its checks done natively. Thirteen rules;
//! each finding says what was found, whether it was fixed, and why not. A rule never makes the order fail.

mod fixes;
mod reports;

use std::time::Duration;

use async_trait::async_trait;
use fleetmend_proto::order::{Finding, FindingResult};
use serde_json::Value;

use super::{
    plan::Steps,
    retry_update, services,
    step::{Cx, Ended, Kind, Step, Stop},
};
use crate::platform::{PlatformError, Program};

/// What the agent does about a fault that a rule finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handling {
    Fix,
    Report,
    /// The agent cannot look: why.
    Unseen(&'static str),
}

/// The rules. Those that fix have a step of their own in `fixes`; the others are looked at in `reports`.
const RULES: [(&str, &str, Handling); 13] = [
    ("T2-01", "services that updates need are disabled or missing", Handling::Fix),
    ("T2-02", "the clock is wrong", Handling::Fix),
    ("T2-03", "a proxy stands between this PC and Windows Update", Handling::Report),
    ("T2-04", "TLS 1.2 is switched off", Handling::Unseen("the settings are numbers, and only text values are read")),
    ("T2-05", "a policy or a person keeps updates away", Handling::Report),
    ("T2-06", "the system volume is nearly full", Handling::Fix),
    ("T2-07", "a restart is owed", Handling::Report),
    ("T2-08", "an update service is not registered", Handling::Unseen("the list of update services is not read")),
    ("T2-09", "transfers of the update client are stuck", Handling::Fix),
    ("T2-10", "update servers are named in the hosts file", Handling::Unseen("the hosts file is not read")),
    (
        "T2-11",
        "a scanner locks files of the update",
        Handling::Unseen("the servicing log and file filters are not read"),
    ),
    ("T2-12", "the recovery partition is too small", Handling::Unseen("partitions are not read")),
    ("T2-13", "a stale setup configuration is there", Handling::Unseen("the file is not read")),
];

pub(super) fn steps() -> Steps {
    let mut steps: Steps = vec![
        Box::new(WindowsPack),
        Box::new(fixes::Services),
        Box::new(fixes::Time),
        Box::new(fixes::Disk),
        Box::new(fixes::Transfers),
        Box::new(reports::Look),
    ];
    steps.extend(retry_update::steps(false));
    steps
}

fn finding(rule: &str, what: impl Into<String>, result: FindingResult, why: impl Into<String>) -> Finding {
    Finding { rule: rule.to_owned(), what: what.into(), result, why: why.into() }
}

/// Ends a step with its findings; the detail counts them.
fn with(findings: Vec<Finding>, nothing: &str) -> Ended {
    let count = |result| findings.iter().filter(|it| it.result == result).count();
    let (fixed, not_fixed) = (count(FindingResult::Fixed), count(FindingResult::NotFixed));
    let detail = if findings.is_empty() {
        nothing.to_owned()
    } else {
        format!(
            "{} found: {fixed} fixed, {not_fixed} not fixed, {} reported",
            findings.len(),
            findings.len() - fixed - not_fixed
        )
    };
    Ended::done(detail).with_findings(findings)
}

/// The pack of older Windows versions. Its exit says nothing documented: the native rules run either way.
struct WindowsPack;

#[async_trait]
impl Step for WindowsPack {
    fn name(&self) -> String {
        "windows_troubleshooter".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        match cx.platform.run(cx.run, Program::TroubleshootingPack, &[], Duration::from_secs(30 * 60)).await {
            Ok(exit) => Ok(Ended::done(format!("the pack of this Windows ran and ended with {}", exit.code))),
            Err(error @ PlatformError::Unavailable { .. }) => {
                Ok(Ended::skipped(format!("{error}; its checks follow natively")))
            }
            Err(error) => Ok(Ended::done(services::why(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_numbered_without_gaps() {
        for (number, (id, _, _)) in (1..).zip(RULES) {
            assert_eq!(id, format!("T2-{number:02}"));
        }
    }
}
