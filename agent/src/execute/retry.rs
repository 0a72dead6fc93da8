//! Tier 1: pause and resume, search, install. Pausing while something installs could undo progress, so it is done only
//! when nothing is under way, and a person's pause is never touched.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    pause,
    plan::Steps,
    retry_update, services,
    step::{Cx, Ended, Kind, Prepared, Seen, Step, Stop},
    undo::Undo,
};
use crate::{
    journal::StepRecord,
    platform::{PlatformError, StartType},
};

const PAUSE: &str = "pause_updates";

pub(super) fn steps() -> Steps {
    let mut steps: Steps = vec![Box::new(CheckServices), Box::new(Pause), Box::new(Resume)];
    steps.extend(retry_update::steps(true));
    steps
}

/// Only notes: a disabled service is tier 2's work, and the retry then fails with the code that says so.
struct CheckServices;

struct Pause;

struct Resume;

#[async_trait]
impl Step for CheckServices {
    fn name(&self) -> String {
        "check_services".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    fn changes(&self) -> bool {
        false
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let mut disabled = Vec::new();
        for name in services::NEEDED {
            match cx.platform.service(name).await {
                Ok(Some(service)) if service.start_type == StartType::Disabled => disabled.push(name),
                Ok(_) => {}
                Err(error) => return Ok(Ended::skipped(services::why(&error))),
            }
        }
        if disabled.is_empty() {
            return Ok(Ended::done("no service that updates need is disabled"));
        }
        Ok(Ended::done(format!("disabled, which tier 2 sets right: {}", disabled.join(", "))))
    }
}

#[async_trait]
impl Step for Pause {
    fn name(&self) -> String {
        PAUSE.to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Probe
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        match cx.platform.is_update_client_busy().await {
            Ok(false) => {}
            Ok(true) => return Ok(Prepared::Skip("something is being installed: a pause would undo it".to_owned())),
            Err(error) => return Ok(Prepared::Skip(services::why(&error))),
        }
        match pause::any_value(cx.platform).await {
            Ok(None) => {}
            Ok(Some(value)) => return Ok(Prepared::Skip(format!("{value} is set, and not by this agent"))),
            Err(error) => return Ok(Prepared::Skip(services::why(&error))),
        }
        let values = pause::values(cx.now());
        Ok(Prepared::Go { undo: Some(Undo::ClearPause { values: values.clone() }), data: json!(values) })
    }

    async fn run(&self, cx: &Cx<'_>, data: &Value) -> Result<Ended, Stop> {
        for (value, text) in written(data) {
            match cx.platform.set_registry_string(cx.run, pause::KEY, &value, Some(&text)).await {
                Ok(()) => {}
                Err(error @ PlatformError::TimedOut { .. }) => return Err(error.into()),
                // The retry works without a pause too; what was written so far is lifted by the next step.
                Err(error) => return Ok(Ended::skipped(services::why(&error))),
            }
        }
        Ok(Ended::done("updates paused"))
    }

    async fn probe(&self, cx: &Cx<'_>, record: &StepRecord) -> Result<Seen, Stop> {
        for (value, text) in written(&record.data) {
            if cx.platform.registry_string(pause::KEY, &value).await? != Some(text) {
                return Ok(Seen::NotDone);
            }
        }
        Ok(Seen::Done(Ended::done("updates paused")))
    }
}

#[async_trait]
impl Step for Resume {
    fn name(&self) -> String {
        "resume_updates".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        match cx.data(PAUSE) {
            Some(Value::Array(_)) => Ok(Prepared::Go { undo: None, data: Value::Null }),
            Some(_) | None => Ok(Prepared::Skip("nothing was paused".to_owned())),
        }
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let values = cx.data(PAUSE).map(written).unwrap_or_default();
        pause::clear(cx.platform, cx.run, &values).await?;
        Ok(Ended::done("the agent's own pause was lifted"))
    }
}

fn written(data: &Value) -> Vec<(String, String)> {
    serde_json::from_value(data.clone()).unwrap_or_default()
}
