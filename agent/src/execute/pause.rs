//! The pause that people set in Settings: reading it, and lifting only what this agent wrote itself.
//!
//! `IAutomaticUpdates::Pause` does nothing since Windows 10; these values are what Settings writes (undocumented, seen
//! in public scripts): REG_SZ, UTC, `2026-01-13T08:00:00Z`.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::platform::{Platform, Result, Run};

pub(crate) const KEY: &str = r"SOFTWARE\Microsoft\WindowsUpdate\UX\Settings";
const STARTS: [&str; 3] = ["PauseUpdatesStartTime", "PauseQualityUpdatesStartTime", "PauseFeatureUpdatesStartTime"];
const ENDS: [&str; 3] = ["PauseUpdatesExpiryTime", "PauseQualityUpdatesEndTime", "PauseFeatureUpdatesEndTime"];
/// Those whose presence stops the updates this product cares for; a pause of feature updates alone does not.
const BINDING: [&str; 2] = ["PauseUpdatesExpiryTime", "PauseQualityUpdatesEndTime"];

/// Until when updates are paused, if they are. Outside a running retry every pause is a person's.
pub(crate) async fn by_person(platform: &dyn Platform, now: DateTime<Utc>) -> Result<Option<String>> {
    for value in BINDING {
        if let Some(until) = platform.registry_string(KEY, value).await?.filter(|it| !it.trim().is_empty()) {
            let is_over = DateTime::parse_from_rfc3339(until.trim()).is_ok_and(|end| end <= now);
            if !is_over {
                return Ok(Some(format!("until {until}")));
            }
        }
    }
    Ok(None)
}

/// Whether any value of a pause is there, past ones too.
pub(crate) async fn any_value(platform: &dyn Platform) -> Result<Option<&'static str>> {
    for value in STARTS.into_iter().chain(ENDS) {
        if platform.registry_string(KEY, value).await?.is_some() {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The values of a pause from `now` for a day.
pub(crate) fn values(now: DateTime<Utc>) -> Vec<(String, String)> {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let starts = STARTS.map(|value| (value.to_owned(), text(now)));
    let ends = ENDS.map(|value| (value.to_owned(), text(now + chrono::Duration::days(1))));
    starts.into_iter().chain(ends).collect()
}

/// Deletes the values that still say what we wrote; what a person changed since stays.
pub(crate) async fn clear(platform: &dyn Platform, run: Run, written: &[(String, String)]) -> Result<()> {
    for (value, data) in written {
        if platform.registry_string(KEY, value).await?.as_ref() == Some(data) {
            platform.set_registry_string(run, KEY, value, None).await?;
        }
    }
    Ok(())
}
