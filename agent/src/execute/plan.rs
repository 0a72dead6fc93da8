//! Which steps an action has. Pure: the list depends on the action and the local policy alone, so that a resumed order
//! finds the same steps again.

use fleetmend_proto::Action;

use super::{
    hide_update, install_manually, reboot, repair_image, repair_install, reset_components, reset_pc, retry, step::Step,
    troubleshoot,
};
use crate::guard::LocalPolicy;

pub(super) type Steps = Vec<Box<dyn Step>>;

/// Step 1 and following; step 0 is the record of the preconditions.
pub(super) fn steps(action: &Action, local: &LocalPolicy) -> Steps {
    match action {
        Action::Retry => retry::steps(),
        Action::Troubleshoot => troubleshoot::steps(),
        Action::RepairImage => repair_image::steps(),
        Action::ResetComponents => reset_components::steps(local),
        Action::InstallManually { package } => install_manually::steps(*package),
        Action::RepairInstall { media } => repair_install::steps(*media),
        Action::ResetPc(reset) => reset_pc::steps(*reset),
        Action::Reboot => reboot::steps(),
        Action::HideUpdate => hide_update::steps(),
    }
}
