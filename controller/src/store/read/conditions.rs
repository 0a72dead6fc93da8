//! What a device said of itself last.

use fleetmend_proto::{Condition, DeviceId};

use crate::store::{Store, StoreError, engine::on, error::During as _, from_json};

impl Store {
    /// The newest condition; `None` = it never described itself.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn device_condition(&self, device: DeviceId) -> Result<Option<Condition>, StoreError> {
        let condition: Option<String> = on!(self.db, pool => sqlx::query_scalar(
            "SELECT condition FROM conditions WHERE device_id = $1 ORDER BY id DESC LIMIT 1",
        )
        .bind(device.0)
        .fetch_optional(pool)
        .await)
        .during("device condition")?;
        condition.map(|text| from_json("condition", &text)).transpose()
    }
}
