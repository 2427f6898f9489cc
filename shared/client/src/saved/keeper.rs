//! Writes the file soon after the snapshot has changed, and says in between that it is still true.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;
use weft_types::{Backoff, SystemClock};

use super::format::{self, Identity};
use crate::Mesh;

/// At least this long between two writes: changes that come meanwhile are one.
const PACE: Duration = Duration::from_secs(1);
/// How often the file's time follows the last confirmation while nothing changes.
const REFRESH: Duration = Duration::from_secs(10);
/// The longest additional wait after writes that fail.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Keeps one file.
pub(super) struct Keeper {
    path: PathBuf,
    cluster: String,
    mesh: Mesh,
    backoff: Backoff,
    failing: bool,
    /// The file as it was written, and the confirmation that it tells of; `None` while it holds anything else.
    written: Option<(Identity, Instant)>,
}

impl Keeper {
    pub(super) fn new(path: PathBuf, cluster: String, mesh: Mesh) -> Self {
        Self { path, cluster, mesh, backoff: Backoff::new(PACE, MAX_BACKOFF), failing: false, written: None }
    }

    /// Runs until `end`, and then writes once more what has changed.
    pub(super) async fn run(mut self, end: CancellationToken) {
        let mut changes = self.mesh.changes();
        // The first listing may have come before this task began.
        changes.mark_changed();
        let mut changed = false;
        loop {
            if !changed {
                // Cancelling a branch loses nothing: the flag says what is still to be done.
                tokio::select! {
                    // What has changed must not be confirmed before it is written.
                    biased;
                    () = end.cancelled() => break,
                    // Fails only when the mesh is gone, which `self` holds.
                    Ok(()) = changes.changed() => changed = true,
                    () = tokio::time::sleep(REFRESH) => changed = !self.refresh().await,
                }
            }
            if !changed {
                continue;
            }
            changed = !self.write().await;
            let wait = if changed { PACE + self.backoff.next(rand::random()) } else { PACE };
            if end.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                break;
            }
        }
        if changed || changes.has_changed().unwrap_or(false) {
            self.write().await;
        }
    }

    /// Writes the newest snapshot; false when that must be tried again.
    pub(super) async fn write(&mut self) -> bool {
        let snapshot = self.mesh.snapshot();
        // What was restored is what the file holds; what is listed in part would be less than that.
        let Some(confirmed) = snapshot.confirmed else { return true };
        let (path, cluster, at) = (self.path.clone(), self.cluster.clone(), wall(confirmed));
        let written = on_disk(move || format::write(&path, &cluster, &snapshot, at)).await;
        self.note(&written);
        self.written = written.ok().map(|identity| (identity, confirmed));
        if self.written.is_some() {
            self.backoff.reset();
        }
        self.written.is_some()
    }

    /// Moves the file's time to the last confirmation; false when the file has to be written anew.
    pub(super) async fn refresh(&mut self) -> bool {
        let Some(confirmed) = self.mesh.snapshot().confirmed else { return true };
        let Some((identity, told)) = self.written else { return false };
        if confirmed == told {
            return true;
        }
        let (path, at) = (self.path.clone(), wall(confirmed));
        let moved = on_disk(move || format::touch(&path, identity, at)).await;
        self.written = moved.ok().flatten().map(|identity| (identity, confirmed));
        self.written.is_some()
    }

    /// Logs a failure when it begins and when it ends, not each time.
    fn note(&mut self, written: &io::Result<Identity>) {
        let failed = written.is_err();
        let file = self.path.display();
        match written {
            Err(error) if !self.failing => {
                tracing::error!(%file, %error, "the snapshot cannot be saved: going on without, and trying again");
            }
            Ok(_) if self.failing => tracing::info!(%file, "the snapshot is saved again"),
            _ => {}
        }
        self.failing = failed;
    }
}

/// Disks block, and a full or a lost one blocks for long.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// When that was by the wall clock.
fn wall(at: Instant) -> SystemTime {
    let now = SystemClock::wall();
    now.checked_sub(SystemClock::now().saturating_duration_since(at)).unwrap_or(now)
}
