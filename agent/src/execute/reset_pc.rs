//! Tier 6. These steps are complete and unreachable: the guard refuses every reset until orders can carry signatures of
//! people. The agent is gone after any reset, so the intent is told before the effect.

use async_trait::async_trait;
use fleetmend_proto::ResetPc;
use serde_json::Value;

use super::{
    plan::Steps,
    step::{Cx, Ended, Kind, Prepared, Step, Stop},
};

pub(super) fn steps(reset: ResetPc) -> Steps {
    vec![Box::new(RecordMachine), Box::new(Reset { reset })]
}

/// What the controller needs to know the PC again when it comes back.
struct RecordMachine;

struct Reset {
    reset: ResetPc,
}

#[async_trait]
impl Step for RecordMachine {
    fn name(&self) -> String {
        "record_machine".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    fn changes(&self) -> bool {
        false
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let machine = cx.platform.machine().await?;
        let uuid = machine.smbios_uuid.map_or_else(|| "none".to_owned(), |it| it.to_string());
        Ok(Ended::done(format!("serial {}, SMBIOS UUID {uuid}", machine.serial)))
    }
}

#[async_trait]
impl Step for Reset {
    fn name(&self) -> String {
        "reset_pc".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::AtMostOnce
    }

    fn restarts(&self) -> bool {
        true
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        let condition = cx.platform.condition().await?;
        if !condition.reset_feature {
            return Err(Stop::Unavailable("the reset feature of the agent is not installed on this PC".to_owned()));
        }
        if !condition.on_ac_power {
            return Err(Stop::Failed("a reset needs mains power".to_owned()));
        }
        Ok(Prepared::Go { undo: None, data: Value::Null })
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        cx.platform.reset_pc(cx.run, &self.reset).await?;
        Ok(Ended::done("Windows accepted the reset"))
    }
}
