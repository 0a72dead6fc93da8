//! `HideUpdate`: takes one offer from the list, reversibly. For offers that keep coming back and mean nothing.

use async_trait::async_trait;
use fleetmend_proto::UpdateRef;
use serde_json::{Value, json};

use super::{
    plan::Steps,
    step::{Cx, Ended, Kind, Prepared, Seen, Step, Stop},
    undo::Undo,
};
use crate::journal::StepRecord;

const FIND: &str = "find_offer";

pub(super) fn steps() -> Steps {
    vec![Box::new(FindOffer), Box::new(Hide)]
}

struct FindOffer;

struct Hide;

#[async_trait]
impl Step for FindOffer {
    fn name(&self) -> String {
        FIND.to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Idempotent
    }

    fn changes(&self) -> bool {
        false
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let update = cx.order.update();
        let offers = cx.platform.offers(cx.run).await?;
        match offers.iter().find(|it| it.update.is_same(&update)) {
            None => Ok(Ended::done("not offered: nothing to hide")),
            Some(offer) if offer.hidden => Ok(Ended::done("hidden already")),
            Some(offer) if offer.mandatory => {
                Err(Stop::Failed("Windows refuses to hide a mandatory update (0x80248016)".to_owned()))
            }
            Some(offer) => Ok(Ended::done("offered").with_data(json!(offer.update))),
        }
    }
}

#[async_trait]
impl Step for Hide {
    fn name(&self) -> String {
        "hide_offer".to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Probe
    }

    async fn prepare(&self, cx: &Cx<'_>) -> Result<Prepared, Stop> {
        match found(cx) {
            Some(update) => Ok(Prepared::with_undo(Undo::Unhide { update })),
            None => Ok(Prepared::Skip("nothing to hide".to_owned())),
        }
    }

    async fn run(&self, cx: &Cx<'_>, _data: &Value) -> Result<Ended, Stop> {
        let update = found(cx).ok_or_else(|| Stop::Failed("the journal's offer is unreadable".to_owned()))?;
        cx.platform.set_hidden(cx.run, &update, true).await?;
        Ok(Ended::done("hidden"))
    }

    async fn probe(&self, cx: &Cx<'_>, _record: &StepRecord) -> Result<Seen, Stop> {
        let update = cx.order.update();
        let offers = cx.platform.offers(cx.run).await?;
        let hidden = offers.iter().any(|it| it.hidden && it.update.is_same(&update));
        Ok(if hidden { Seen::Done(Ended::done("hidden")) } else { Seen::NotDone })
    }
}

fn found(cx: &Cx<'_>) -> Option<UpdateRef> {
    cx.data(FIND).and_then(|it| serde_json::from_value(it.clone()).ok())
}
