//! Looks whether the repository has changed, and reads it again when it has.
//!
//! What is being copied into the folder is not read: a change counts once it has looked the same for a while. A folder that cannot be
//! read at the moment leaves everything as it is. Names, lengths, times of change and times of the last change of anything about it are compared; so a
//! file that is replaced in place by one of the same length within the same instant of the file system's clock is not noticed. As long as something could
//! not be read or served, it is read again after a while without any change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
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
/// After so long, what had problems is read again; longer where reading takes long, as above.
const AGAIN: Duration = Duration::from_secs(2);
/// A model's folder, a version's folder, and what is in it.
const DEPTH: usize = 3;

/// What lies in the repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts(BTreeMap<PathBuf, Fact>);

/// Of one entry: its length, when its content was changed, and when anything about it was, such as who may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fact {
    length: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

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
            let changed = (about.ctime(), about.ctime_nsec());
            self.0.insert(path, Fact { length, modified: about.modified().ok(), changed });
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
    /// When to read again although nothing has changed.
    again: Option<Instant>,
}

impl Watch {
    /// Whether it is to be read again, now that this was found.
    fn look(&mut self, found: Facts, now: Instant) -> bool {
        if self.read.as_ref() == Some(&found) {
            self.seen = None;
            return self.again.is_some_and(|again| again <= now);
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

    /// It was read from `began` to `ended`, with problems or without.
    fn have_read(&mut self, has_problems: bool, began: Instant, ended: Instant) {
        let pause = AGAIN.max(ended.saturating_duration_since(began).saturating_mul(EFFORT));
        self.again = if has_problems { ended.checked_add(pause) } else { None };
    }
}

/// Follows the folder for engines of these names until it is dropped. `read` is what was found before it was read first.
pub(crate) async fn follow(
    (dir, engines): (PathBuf, BTreeSet<&'static str>),
    read: Option<Facts>,
    shared: Arc<Shared>,
) {
    let mut watch = Watch { read, seen: None, again: None };
    let now = SystemClock::now();
    watch.have_read(!shared.repository().problems().is_empty(), now, now);
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
        let is_change = watch.read.as_ref() != Some(&found);
        if !watch.look(found, began) {
            continue;
        }
        let (at, engines) = (dir.clone(), engines.clone());
        let began = SystemClock::now();
        let scanned = tokio::task::spawn_blocking(move || Repository::scan(Some(&at), &engines)).await;
        let Ok(repository) = scanned else {
            watch.read = None;
            continue;
        };
        watch.have_read(!repository.problems().is_empty(), began, SystemClock::now());
        let before = shared.repository();
        // Read again in vain.
        if !is_change && before.problems() == repository.problems() {
            continue;
        }
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
        let fact = |length| Fact { length, modified: None, changed: (0, 0) };
        Facts(entries.iter().map(|(name, length)| (PathBuf::from(name), fact(*length))).collect())
    }

    #[test]
    fn what_is_still_being_written_is_not_read() {
        let (empty, began) = (facts(&[]), SystemClock::now());
        let mut watch = Watch { read: Some(empty.clone()), seen: None, again: None };
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
        // Who may read it decides whether it can be served.
        let (file, before) = (folder.path().join("m/1/model.onnx"), look());
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o200)).expect("it is ours");
        assert_ne!(before, look());
        assert!(Facts::of(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn what_had_problems_is_read_again_without_a_change() {
        let (found, began) = (facts(&[("m", 1)]), SystemClock::now());
        let mut watch = Watch { read: Some(found.clone()), seen: None, again: None };
        watch.have_read(true, began, began);
        assert!(!watch.look(found.clone(), began + AGAIN / 2));
        assert!(watch.look(found.clone(), began + AGAIN));
        watch.have_read(true, began, began + Duration::from_secs(1));
        assert!(!watch.look(found.clone(), began + Duration::from_secs(50)), "reading takes long");
        assert!(watch.look(found.clone(), began + Duration::from_secs(51)));
        watch.have_read(false, began, began);
        assert!(!watch.look(found, began + AGAIN));
    }

    #[test]
    fn looking_takes_a_small_share_of_the_time() {
        let began = SystemClock::now();
        assert_eq!(after(began, began), PAUSE);
        assert_eq!(after(began, began + Duration::from_secs(1)), Duration::from_secs(50));
    }
}
