//! `Reboot`: one restart with notice, proven by another boot id; then the update is tried again.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{
    plan::Steps,
    retry_update,
    step::{Cx, Ended, Kind, Prepared, Step, Stop},
    undo::Undo,
};

/// Notice that people at the PC get.
const NOTICE: Duration = Duration::from_secs(15 * 60);
/// Restarts one order may ask for.
const PER_ORDER: i64 = 2;
/// Restarts all orders together may ask for in 24 hours.
const PER_DAY: i64 = 3;

pub(super) fn steps() -> Steps {
    let mut steps: Steps = vec![Box::new(Restart)];
    steps.extend(retry_update::steps(false));
    steps
}

struct Restart;

#[async_trait]
impl Step for Restart {
    fn name(&self) -> String {
        "restart".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::AtMostOnce
    }

    fn restarts(&self) -> bool {
        true
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        let (of_order, of_day) = cx.journal.reboots(cx.order.order, cx.now()).await?;
        if of_order >= PER_ORDER {
            return Err(Stop::Failed(format!("this order restarted the PC {of_order} times already")));
        }
        if of_day >= PER_DAY {
            return Err(Stop::Failed(format!("the PC was restarted {of_day} times in 24 hours already")));
        }
        Ok(Prepared::with_undo(Undo::CallOffRestart))
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let reason = "Windows needs a restart to finish its updates";
        cx.platform.reboot(cx.run, NOTICE, reason).await?;
        Ok(Ended::done("a restart is asked for"))
    }
}
