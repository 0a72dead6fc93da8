//! COM work on threads of its own: multithreaded apartment, a time limit for the waiting, never for the work. A call into
//! the update client may hang for good; its thread is then left behind, and only a few of those are borne.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;
use windows::Win32::System::Com::{COINIT_MULTITHREADED, CoInitializeEx, CoUninitialize};

use super::error::{failed, unavailable};
use crate::platform::{PlatformError, Result};

/// Threads that may hang at once.
const MAX_THREADS: usize = 8;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Counts a thread for as long as it lives.
struct Counted;

impl Counted {
    fn one() -> Option<Self> {
        let free = |count: usize| (count < MAX_THREADS).then_some(count + 1);
        THREADS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).ok().map(|_| Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs `work` in a multithreaded apartment and waits `limit` for its answer.
///
/// # Errors
/// What `work` gives; `TimedOut` when it has not ended, in which case what becomes of it is unknown.
pub(super) async fn call<T, F>(what: &str, limit: Duration, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let Some(counted) = Counted::one() else {
        return Err(unavailable(what, format!("{MAX_THREADS} earlier calls have not come back: restart the agent")));
    };
    let (sender, answer) = oneshot::channel();
    let spawned = thread::Builder::new().name("com".to_owned()).spawn(move || {
        let _counted = counted;
        // Nobody waits any more: the answer is of no use.
        let _ = sender.send(in_apartment(work));
    });
    spawned.map_err(|source| PlatformError::Io { what: format!("a thread for {what}"), source })?;
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(unavailable(what, "its thread ended without an answer")),
        Err(_) => Err(PlatformError::TimedOut { what: what.to_owned(), limit }),
    }
}

fn in_apartment<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: a new thread, left only after everything that `work` made is dropped.
    unsafe { CoInitializeEx(None, COINIT_MULTITHREADED) }.ok().map_err(|error| failed("COM", &error))?;
    let answer = work();
    // SAFETY: pairs with the call above, on the same thread.
    unsafe { CoUninitialize() };
    answer
}
