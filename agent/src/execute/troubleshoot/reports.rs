//! The rules that only report: what belongs to policies and people, and what this agent cannot see.

use std::time::Duration;

use async_trait::async_trait;
use fleetmend_proto::order::{Finding, FindingResult::Reported};
use serde_json::Value;

use super::{Handling, RULES, finding, with};
use crate::{
    execute::{
        output, pause, services,
        step::{Cx, Ended, Kind, Step, Stop},
    },
    platform::Program,
};

const POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate";
/// Text values of the policy key, and what each means. It belongs to the company: read, never written.
const POLICIES: [(&str, &str); 4] = [
    ("WUServer", "updates come from this server"),
    ("UpdateServiceUrlAlternate", "updates come from this server too"),
    ("PauseQualityUpdatesStartTime", "quality updates are paused for 35 days from this date"),
    ("PauseFeatureUpdatesStartTime", "feature updates are paused for 35 days from this date"),
];

pub(super) struct Look;

#[async_trait]
impl Step for Look {
    fn name(&self) -> String {
        "look".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    fn changes(&self) -> bool {
        false
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let mut findings = Vec::new();
        proxy(cx, &mut findings).await;
        policies(cx, &mut findings).await;
        match cx.platform.pending_reboot().await {
            Ok(reasons) => {
                findings
                    .extend(reasons.into_iter().take(4).map(|it| finding("T2-07", "a restart is owed", Reported, it)));
            }
            Err(error) => findings.push(unavailable("T2-07", &services::why(&error))),
        }
        for (rule, what, handling) in RULES {
            if let Handling::Unseen(why) = handling {
                findings.push(finding(rule, format!("unavailable: whether {what}"), Reported, why));
            }
        }
        Ok(with(findings, "nothing found"))
    }
}

async fn proxy(cx: &Cx<'_>, findings: &mut Vec<Finding>) {
    let args = ["winhttp", "show", "proxy"].map(str::to_owned);
    match cx.platform.run(cx.run, Program::Netsh, &args, Duration::from_secs(60)).await {
        Ok(exit) => {
            if let Some(proxy) = output::proxy(&exit.stdout) {
                let why = "it must let HTTP range requests to Windows Update through";
                findings.push(finding("T2-03", format!("system services use the proxy {proxy}"), Reported, why));
            }
        }
        Err(error) => findings.push(unavailable("T2-03", &services::why(&error))),
    }
}

async fn policies(cx: &Cx<'_>, findings: &mut Vec<Finding>) {
    for (value, meaning) in POLICIES {
        match cx.platform.registry_string(POLICY, value).await {
            Ok(Some(text)) => {
                findings.push(finding("T2-05", format!("policy {value} = {text}"), Reported, meaning));
            }
            Ok(None) => {}
            Err(error) => {
                findings.push(unavailable("T2-05", &services::why(&error)));
                return;
            }
        }
    }
    if let Ok(Some(until)) = pause::by_person(cx.platform, cx.now()).await {
        findings.push(finding("T2-05", format!("a person paused updates {until}"), Reported, "left as it is"));
    }
}

fn unavailable(rule: &str, why: &str) -> Finding {
    let what = RULES.iter().find(|(id, _, _)| *id == rule).map_or("", |(_, what, _)| what);
    finding(rule, format!("unavailable: whether {what}"), Reported, why)
}
