//! What a scenario runs in: one device's incidents, moved by the pure functions of the domain alone.

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Duration, Utc};
use fleetmend_domain::{
    catalogue::Catalogue,
    incident::{self, HoldReason},
    ladder::{self, Attempt, Case, Decision, Device, ManualRequest, Next, Verdict},
    matching::{self, Known, Match},
    order,
    policy::{Policy, Posture},
    rules,
};
use fleetmend_proto::{
    HResult, IncidentId, Operation, Outcome, OutcomeResult, Source, UpdateKind, UpdateRef,
    condition::{DeviceRole, ProductType, UpdateAuthority},
    order::Refusal,
};
use uuid::Uuid;

use super::file::{EventWord, Scenario, Seen, Span, Step, VerdictWord, What};

pub struct World {
    now: DateTime<Utc>,
    code: HResult,
    update: UpdateRef,
    device: Device,
    policy: Policy,
    incidents: Vec<Case>,
    installed: Vec<(UpdateRef, DateTime<Utc>)>,
    matched: Option<&'static str>,
    decision: Option<Decision>,
    /// When the order of the decision expires.
    expires: Option<DateTime<Utc>>,
}

impl World {
    pub fn new(scenario: &Scenario) -> Self {
        let base = UpdateRef {
            update_id: Some(Uuid::from_u128(1)),
            revision: 200,
            kb: None,
            title: "2026-01 Cumulative Update for Windows 11 Version 24H2 for x64-based Systems".to_owned(),
            kind: UpdateKind::Quality,
            supersedes: Vec::new(),
        };
        let mut device = Device {
            quarantined: false,
            excluded: false,
            product_type: ProductType::Client,
            role: DeviceRole::Workstation,
            authority: UpdateAuthority::Wufb,
            reboot_pending: false,
            utc_offset_minutes: 60,
            package: None,
            package_clash: None,
        };
        scenario.device.apply(&mut device);
        let mut policy = Policy { posture: Posture::Recommended, ..Policy::default() };
        scenario.policy.apply(&mut policy);
        Self {
            now: scenario.start.or_else(|| DateTime::from_timestamp(1_790_000_000, 0)).unwrap_or_default(),
            code: scenario.code,
            update: scenario.update.apply(&base),
            device,
            policy,
            incidents: Vec::new(),
            installed: Vec::new(),
            matched: None,
            decision: None,
            expires: None,
        }
    }

    /// Runs a step and checks what it expects.
    pub fn step(&mut self, step: &Step) -> Result<()> {
        self.now += step.after.0;
        self.matched = None;
        self.decision = None;
        self.expires = None;
        match (self.happen(&step.what), step.expect.illegal) {
            (Err(error), true) => ensure!(error.is::<incident::IllegalTransition>(), "{error:#}"),
            (Ok(()), true) => bail!("the event was taken, which should have been illegal"),
            (result, false) => result?,
        }
        if step.expect.rule.is_some() || step.expect.next.is_some() {
            self.decide()?;
        }
        self.check(step)
    }

    /// Rule ids that decisions of this step carried.
    pub fn rule(&self) -> Option<&str> {
        self.decision.as_ref().map(|decision| decision.rule.as_str())
    }

    fn happen(&mut self, what: &What) -> Result<()> {
        match what {
            What::Time {} => Ok(()),
            What::Failed(seen) => self.see(seen, OutcomeResult::Failed),
            What::Aborted(seen) => self.see(seen, OutcomeResult::Aborted),
            What::Succeeded(seen) => self.see(seen, OutcomeResult::Succeeded),
            What::SucceededWithErrors(seen) => self.see(seen, OutcomeResult::SucceededWithErrors),
            What::PendingReboot(seen) => self.see(seen, OutcomeResult::PendingReboot),
            What::Order { end, refusal } => self.end_order(*end, *refusal),
            What::Verdict { verdict, code } => self.verify(*verdict, *code),
            What::NoHelp { code } => {
                self.end_order(order::State::Succeeded, None)?;
                self.verify(VerdictWord::StillFailing, *code)
            }
            What::Manual { tier, now } => {
                let request = ManualRequest { tier: *tier, now: *now, by: "kim".to_owned() };
                if !self.latest()?.state.is_with_people() {
                    self.apply(&incident::Event::ManualRequested)?;
                }
                self.latest()?.manual = Some(request);
                Ok(())
            }
            What::Device(device) => {
                device.apply(&mut self.device);
                Ok(())
            }
            What::Policy(policy) => {
                policy.apply(&mut self.policy);
                Ok(())
            }
            What::Event { event } => self.apply(&match event {
                EventWord::Installed => incident::Event::Installed,
                EventWord::Released => incident::Event::Released,
                EventWord::Returned => incident::Event::Returned,
                EventWord::Dismissed => incident::Event::Dismissed { by: "kim".to_owned() },
                EventWord::Held => incident::Event::Held(HoldReason::Manual),
            }),
        }
    }

    fn see(&mut self, seen: &Seen, result: OutcomeResult) -> Result<()> {
        let succeeded = matches!(result, OutcomeResult::Succeeded | OutcomeResult::PendingReboot);
        let code = seen.code.unwrap_or(if succeeded { HResult::OK } else { self.code });
        let outcome = Outcome {
            update: seen.update.apply(&self.update),
            operation: seen.operation.unwrap_or(Operation::Install),
            result,
            code,
            raw_code: code,
            occurred_at: self.now - seen.ago.0,
            source: Source::EventLog,
        };
        let installed_at = self.installed.iter().filter(|it| it.0.satisfies(&outcome.update)).map(|it| it.1).max();
        let open: Vec<_> = self.incidents.iter().map(known).collect();
        let found = matching::judge(&outcome, &open, installed_at);
        if outcome.operation == Operation::Install && result == OutcomeResult::Succeeded {
            self.installed.push((outcome.update.clone(), outcome.occurred_at));
        }
        self.matched = Some(match &found {
            Match::Open => "open",
            Match::Join { .. } => "join",
            Match::Close { .. } => "close",
            Match::RebootOwed { .. } => "reboot_owed",
            Match::Ignore(why) => why.word(),
        });
        match found {
            Match::Open => self.open(outcome),
            Match::Join { incident, code_changed } => {
                let now = self.now;
                let case = self.by_id(incident)?;
                case.failures += 1;
                case.last_failed_at = case.last_failed_at.max(outcome.occurred_at);
                if code_changed {
                    case.code = outcome.code;
                }
                case.state = incident::next(&case.state, &incident::Event::FailedAgain, now)?;
            }
            Match::Close { incidents } => {
                let now = self.now;
                for id in incidents {
                    let case = self.by_id(id)?;
                    case.state = incident::next(&case.state, &incident::Event::Installed, now)?;
                }
            }
            Match::RebootOwed { .. } | Match::Ignore(_) => {}
        }
        Ok(())
    }

    fn open(&mut self, outcome: Outcome) {
        let harmless = |case: &&Case| case.state == incident::State::Benign && case.update.is_same(&outcome.update);
        let benign_before = self.incidents.iter().filter(harmless).count();
        self.incidents.push(Case {
            incident: IncidentId(Uuid::from_u128(self.incidents.len() as u128 + 1)),
            state: incident::State::Open,
            code: outcome.code,
            opened_at: self.now,
            failures: 1,
            benign_before: u32::try_from(benign_before).unwrap_or(u32::MAX),
            last_failed_at: outcome.occurred_at,
            update: outcome.update,
            attempts: Vec::new(),
            device: self.device.clone(),
            manual: None,
        });
    }

    /// Walks the order in hand to its end by its own table, then tells the incident.
    fn end_order(&mut self, end: order::State, refusal: Option<Refusal>) -> Result<()> {
        use order::{Event as E, State as S};
        let path: &[E] = match end {
            S::Succeeded => &[E::Leased, E::Begun, E::Succeeded],
            S::Failed => &[E::Leased, E::Begun, E::Failed],
            S::Unknown => &[E::Leased, E::LeaseLapsed, E::Leased, E::Begun, E::BecameUnknown],
            S::Unavailable => &[E::Leased, E::Begun, E::FoundUnavailable],
            S::Refused => &[E::Leased, E::Refused],
            S::Expired => &[E::Expired],
            S::Cancelled => &[E::Leased, E::Cancelled],
            S::Queued | S::Leased | S::Running | S::AwaitingReboot | S::AwaitingReturn => {
                bail!("{end} is no end of an order")
            }
        };
        let now = self.now;
        let attempt = self.latest()?.attempts.last_mut().context("no order is out")?;
        attempt.state = path.iter().try_fold(attempt.state, |state, event| order::next(state, *event))?;
        ensure!(attempt.state == end, "the order ended as {}", attempt.state);
        attempt.ended_at = Some(now);
        attempt.refusal = refusal;
        let tried = end.has_begun();
        self.apply(&if tried { incident::Event::OrderFinished } else { incident::Event::OrderLapsed })
    }

    fn verify(&mut self, verdict: VerdictWord, code: Option<HResult>) -> Result<()> {
        let case = self.latest()?;
        let code = code.unwrap_or(case.code);
        let (verdict, event) = match verdict {
            VerdictWord::Installed => (Verdict::Installed, incident::Event::Installed),
            VerdictWord::StillFailing => (Verdict::StillFailing { code }, incident::Event::StillFailing),
            VerdictWord::RebootOwed => (Verdict::RebootOwed, incident::Event::RebootOwed),
            VerdictWord::DeadlinePassed => (Verdict::DeadlinePassed, incident::Event::StillFailing),
        };
        case.attempts.last_mut().context("nothing was ordered")?.verdict = Some(verdict);
        if matches!(verdict, Verdict::StillFailing { .. }) {
            case.code = code;
        }
        self.apply(&event)
    }

    fn decide(&mut self) -> Result<()> {
        let (device, policy, now) = (self.device.clone(), self.policy.clone(), self.now);
        let case = self.latest()?;
        case.device = device;
        let decision = ladder::decide(case, &policy, Catalogue::embedded(), now);
        let again = ladder::decide(case, &policy, Catalogue::embedded(), now);
        ensure!(decision == again, "the same case was decided in two ways");
        ensure!(rules::rule(&decision.rule).is_some(), "{} is in no table", decision.rule);
        if decision.rule != "R4.in_hand" {
            for event in ladder::events(case, &decision.next) {
                case.state = incident::next(&case.state, &event, now)?;
            }
        }
        let expires = if let Next::Order { action } = &decision.next {
            Some(ladder::expires_at(case, &policy, action, now))
        } else {
            None
        };
        let waits = matches!(decision.next, Next::Wait { .. } | Next::Hold { .. });
        let manual = if waits { None } else { case.manual.take() };
        if let Next::Order { action } = &decision.next {
            case.attempts.push(Attempt {
                action: action.clone(),
                charged_to: action.tier(),
                state: order::State::Queued,
                refusal: None,
                verdict: None,
                ended_at: None,
                manual: manual.is_some(),
            });
        }
        self.decision = Some(decision);
        self.expires = expires;
        Ok(())
    }

    fn check(&mut self, step: &Step) -> Result<()> {
        let expect = &step.expect;
        if let Some(wanted) = &expect.matched {
            ensure!(self.matched == Some(wanted), "matched as {:?}, expected {wanted}", self.matched);
        }
        match &self.decision {
            Some(decision) => check_decision(step, decision, self.expires, self.now)?,
            None => ensure!(
                expect.action.is_none()
                    && expect.until.is_none()
                    && expect.hold.is_none()
                    && expect.reason.is_none()
                    && expect.expires.is_none(),
                "action, until, hold, reason and expires are of a decision: expect its rule or next too"
            ),
        }
        let opened = self.incidents.len();
        if let Some(wanted) = expect.opened {
            ensure!(opened == wanted, "{opened} incidents were opened, expected {wanted}");
        }
        if expect.state.is_none() && expect.tier.is_none() && expect.fixed_by.is_none() {
            return Ok(());
        }
        let case = self.latest()?;
        if let Some(wanted) = &expect.state {
            ensure!(case.state.name().word() == wanted, "the incident is {:?}, expected {wanted}", case.state);
        }
        if expect.tier.is_some() {
            ensure!(case.state.tier() == expect.tier, "the incident is {:?}, expected {:?}", case.state, expect.tier);
        }
        if let Some(wanted) = expect.fixed_by {
            let found = ladder::fixed_by(&case.attempts).map_or(0, fleetmend_proto::Tier::number);
            ensure!(found == wanted, "fixed by tier {found}, expected {wanted}");
        }
        Ok(())
    }

    fn apply(&mut self, event: &incident::Event) -> Result<()> {
        let now = self.now;
        let case = self.latest()?;
        case.state = incident::next(&case.state, event, now)?;
        Ok(())
    }

    fn latest(&mut self) -> Result<&mut Case> {
        self.incidents.last_mut().context("no incident is open")
    }

    fn by_id(&mut self, id: IncidentId) -> Result<&mut Case> {
        self.incidents.iter_mut().find(|case| case.incident == id).context("matched an incident that is not there")
    }
}

fn known(case: &Case) -> Known<'_> {
    Known {
        id: case.incident,
        update: &case.update,
        state: &case.state,
        code: case.code,
        last_failed_at: case.last_failed_at,
    }
}

fn check_decision(step: &Step, decision: &Decision, expires: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<()> {
    let expect = &step.expect;
    let said = format!("decided {} {:?}: {}", decision.rule, decision.next, decision.reason);
    if let Some(rule) = &expect.rule {
        ensure!(decision.rule == *rule, "{said}; expected rule {rule}");
    }
    let (next, action, until, hold) = match &decision.next {
        Next::Order { action } => ("order", Some(action.name()), None, None),
        Next::Wait { until } => ("wait", None, Some(*until), None),
        Next::Hold { reason, until } => ("hold", None, Some(*until), Some(reason.word())),
        Next::Decline => ("decline", None, None, None),
        Next::EndBenign => ("end_benign", None, None, None),
        Next::Exhaust => ("exhaust", None, None, None),
        Next::HandOver => ("hand_over", None, None, None),
        Next::AwaitApproval => ("await_approval", None, None, None),
    };
    if let Some(wanted) = &expect.next {
        ensure!(next == wanted, "{said}; expected {wanted}");
    }
    if expect.action.is_some() {
        ensure!(action == expect.action.as_deref(), "{said}; expected action {:?}", expect.action);
    }
    if expect.hold.is_some() {
        ensure!(hold == expect.hold.as_deref(), "{said}; expected hold {:?}", expect.hold);
    }
    if let Some(until) = until {
        ensure!(until > now, "{said}; a wait that is already over");
        ensure!(until <= now + Duration::days(21), "{said}; a wait longer than any incident lives");
    }
    if expect.until.is_some() {
        let found = until.map(|until| Span::since(now, until));
        ensure!(found == expect.until, "{said}; waits {found:?}, expected {:?}", expect.until);
    }
    if expect.expires.is_some() {
        let found = expires.map(|at| Span::since(now, at));
        ensure!(found == expect.expires, "{said}; expires {found:?}, expected {:?}", expect.expires);
    }
    if let Some(words) = &expect.reason {
        ensure!(decision.reason.contains(words.as_str()), "{said}; the reason lacks {words:?}");
    }
    ensure!(decision.reason.ends_with('.'), "{said}; the reason is no sentence");
    Ok(())
}
