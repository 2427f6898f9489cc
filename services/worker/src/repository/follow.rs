//! Looks whether the repository has changed, and reads it again when it has.
//!
//! What is being copied into the folder is not read: a change counts once it has looked the same for a while. A folder that cannot be
//! read at the moment leaves everything as it is. Names, lengths and times of change are compared; so a file that is replaced in place by one of the
//! same length within the same instant of the file system's clock is not noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weft_types::SystemClock;

use super::Repository;
use super::files::{MAX_ENTRIES, unreadable};
use crate::Shared;

/// Between two looks, and longer where a look takes long: no more than a share of one in [`EFFORT`] of the time goes into looking.
const PAUSE: Duration = Duration::from_millis(50);
const EFFORT: u32 = 50;
/// For so long a change must look the same.
const SETTLED: Duration = Duration::from_millis(150);
/// A model's folder, a version's folder, and what is in it.
const DEPTH: usize = 3;

/// What lies in the repository: names, lengths and when they were changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts(BTreeMap<PathBuf, (u64, Option<SystemTime>)>);

impl Facts {
    /// Looks at the folder.
    pub(crate) fn of(dir: &Path) -> Result<Self, String> {
        let mut facts = Self::default();
        facts.add(dir, DEPTH)?;
        Ok(facts)
    }

    fn add(&mut self, dir: &Path, depth: usize) -> Result<(), String> {
        for entry in fs::read_dir(dir).map_err(|error| unreadable(&error))? {
            let path = entry.map_err(|error| unreadable(&error))?.path();
            // What has gone meanwhile, or leads nowhere, has no facts.
            let Ok(about) = fs::metadata(&path) else { continue };
            if self.0.len() >= MAX_ENTRIES * DEPTH {
                return Err("there are too many files".to_owned());
            }
            if about.is_dir() && depth > 1 {
                self.add(&path, depth - 1)?;
            }
            let length = if about.is_dir() { 0 } else { about.len() };
            self.0.insert(path, (length, about.modified().ok()));
        }
        Ok(())
    }
}

/// When to read again.
#[derive(Debug)]
struct Watch {
    /// As it was when it was read last; `None` if it could not be looked at.
    read: Option<Facts>,
    /// A change, and when it was seen first.
    seen: Option<(Facts, Instant)>,
}

impl Watch {
    /// Whether it is to be read again, now that this was found.
    fn look(&mut self, found: Facts, now: Instant) -> bool {
        if self.read.as_ref() == Some(&found) {
            self.seen = None;
            return false;
        }
        let since = match self.seen.take() {
            Some((seen, since)) if seen == found => since,
            _ => now,
        };
        let is_settled = now.saturating_duration_since(since) >= SETTLED;
        if is_settled {
            self.read = Some(found);
        } else {
            self.seen = Some((found, since));
        }
        is_settled
    }
}

/// Follows the folder for engines of these names until it is dropped. `read` is what was found before it was read first.
pub(crate) async fn follow(
    (dir, engines): (PathBuf, BTreeSet<&'static str>),
    read: Option<Facts>,
    shared: Arc<Shared>,
) {
    let mut watch = Watch { read, seen: None };
    let mut pause = PAUSE;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.leaving.cancelled() => return,
        }
        let (at, began) = (dir.clone(), SystemClock::now());
        let found = tokio::task::spawn_blocking(move || Facts::of(&at)).await;
        pause = after(began, SystemClock::now());
        let Ok(Ok(found)) = found else { continue };
        if !watch.look(found, began) {
            continue;
        }
        let (at, engines) = (dir.clone(), engines.clone());
        let Ok(repository) = tokio::task::spawn_blocking(move || Repository::scan(Some(&at), &engines)).await else {
            continue;
        };
        let before = shared.repository();
        for problem in repository.problems().iter().filter(|problem| !before.problems().contains(problem)) {
            tracing::warn!(model = %problem.model, problem = %problem.problem, "a model in the repository is skipped");
        }
        tracing::info!(models = repository.offers.len(), "the repository has changed and was read again");
        shared.repository.send_replace(Arc::new(repository));
    }
}

/// The pause after a look.
fn after(began: Instant, ended: Instant) -> Duration {
    PAUSE.max(ended.saturating_duration_since(began).saturating_mul(EFFORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(entries: &[(&str, u64)]) -> Facts {
        Facts(entries.iter().map(|(name, length)| (PathBuf::from(name), (*length, None))).collect())
    }

    #[test]
    fn what_is_still_being_written_is_not_read() {
        let (empty, began) = (facts(&[]), SystemClock::now());
        let mut watch = Watch { read: Some(empty.clone()), seen: None };
        let mut look = |found: &Facts, after: Duration| watch.look(found.clone(), began + after);
        let (one, two, three) = (facts(&[("m", 1)]), facts(&[("m", 2)]), facts(&[("m", 2), ("n", 1)]));
        assert!(!look(&empty, SETTLED));
        assert!(!look(&one, SETTLED * 2), "it may go on");
        assert!(!look(&two, SETTLED * 3), "it went on");
        assert!(!look(&two, SETTLED * 7 / 2), "it may still go on");
        assert!(look(&two, SETTLED * 4));
        assert!(!look(&two, SETTLED * 5), "that was read");
        // What comes and goes between two looks is no change.
        assert!(!look(&three, SETTLED * 6));
        assert!(!look(&two, SETTLED * 7));
        assert!(!look(&three, SETTLED * 8));
        assert!(look(&three, SETTLED * 9));
        assert!(!look(&empty, SETTLED * 10));
        assert!(look(&empty, SETTLED * 11));
    }

    #[test]
    fn every_file_that_can_matter_is_looked_at() {
        let folder = tempfile::tempdir().expect("a folder");
        let look = || Facts::of(folder.path()).expect("it can be read");
        let before = look();
        std::fs::create_dir_all(folder.path().join("m/1")).expect("made");
        let empty = look();
        assert_ne!(before, empty);
        std::fs::write(folder.path().join("m/1/model.onnx"), b"one").expect("written");
        let one = look();
        assert_ne!(empty, one);
        std::fs::write(folder.path().join("m/1/model.onnx"), b"more").expect("written");
        assert_ne!(one, look());
        assert_eq!(look(), look());
        assert!(Facts::of(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn looking_takes_a_small_share_of_the_time() {
        let began = SystemClock::now();
        assert_eq!(after(began, began), PAUSE);
        assert_eq!(after(began, began + Duration::from_secs(1)), Duration::from_secs(50));
    }
}
