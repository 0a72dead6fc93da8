//! Whether this process lives, and whether it can do its work. For load balancers and supervisors: no token needed, and
//! nothing of the fleet told.

use std::{path::Path, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{ApiState, problem::Problem};

/// A database whose connections are all taken for longer is no database to send work to.
const PATIENCE: Duration = Duration::from_secs(2);
/// Below this much of the data folder's disk, in percent, no new work should come here.
const DISK_NEEDED: u64 = 5;

/// `GET /healthz`: the process answers.
pub async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /readyz`: the database answers in time, with a schema this binary can work on; there is room on the disk; and the
/// process is not about to end.
pub async fn ready(State(state): State<ApiState>) -> Result<Json<Value>, Problem> {
    if state.streams.is_draining() {
        return Err(not_ready("the controller is stopping; use another one"));
    }
    match tokio::time::timeout(PATIENCE, state.store.schema_check()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Problem::unavailable("say it is ready", &error)),
        Err(_) => {
            return Err(not_ready("the database did not answer within 2 s; look at its load and its connections"));
        }
    }
    if let Some(free) = disk_free(&state.data_dir)
        && free < DISK_NEEDED
    {
        tracing::error!(data_dir = %state.data_dir.display(), free_percent = free, "the disk is nearly full");
        return Err(not_ready(&format!(
            "{free} % of the controller's disk are free, it needs {DISK_NEEDED} %: make room"
        )));
    }
    Ok(Json(json!({ "status": "ready" })))
}

fn not_ready(detail: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail)
}

/// Free space for this user, in percent of the whole; `None` where the system does not tell.
fn disk_free(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let disk = nix::sys::statvfs::statvfs(folder).ok()?;
        (disk.blocks_available() * 100).checked_div(disk.blocks())
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_space_of_a_folder_is_a_percentage() {
        let free = disk_free(Path::new("/")).expect("a file system");
        assert!(free <= 100, "{free}");
        assert_eq!(disk_free(Path::new("/nonexistent")), None);
    }
}
