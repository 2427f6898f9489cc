//! Definitions that are ready to be run, kept for the next job of the same one.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prost::Message as _;
use weft_journal::{Hash, Journal};
use weft_proto::weft::jobs::v1::JobDefinition;
use weft_types::{Error, Reason, Result};

use super::definition::{Plan, Submitted, compile};
use super::error::journal_failed;

/// The ones used last: most jobs of a mesh are of few definitions.
const MAX_RECENT: usize = 256;
/// The bytes of their definitions. What is run takes some ten times that.
const MAX_RECENT_BYTES: usize = 32 << 20;

/// A definition as it is run, and as it was submitted.
#[derive(Debug)]
pub(super) struct Program {
    plan: Plan,
    /// With every default written out.
    pub(super) message: JobDefinition,
    /// Of its encoded definition.
    bytes: usize,
    /// The bytes of all programs that there are.
    all: Arc<AtomicUsize>,
}

impl Deref for Program {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.plan
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Programs by their definition's hash.
#[derive(Default)]
pub(super) struct Programs {
    // Each entry is whole at any point: a panic elsewhere cannot have left one half changed.
    known: Mutex<Known>,
    bytes: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Known {
    /// The ones used last, the last one at the end.
    recent: VecDeque<(Hash, Arc<Program>)>,
    recent_bytes: usize,
    /// Every one that there is, and perhaps some that have gone.
    all: HashMap<Hash, Weak<Program>>,
    /// So many are left in it before those that have gone are looked for.
    swept_at: usize,
}

impl Known {
    fn find(&mut self, hash: &Hash) -> Option<Arc<Program>> {
        let program = self.all.get(hash)?.upgrade()?;
        if let Some(at) = self.recent.iter().position(|(known, _)| known == hash) {
            let newest = self.recent.remove(at);
            self.recent.extend(newest);
        }
        Some(program)
    }

    fn forget_oldest(&mut self) -> bool {
        let oldest = self.recent.pop_front();
        self.recent_bytes -= oldest.as_ref().map_or(0, |(_, program)| program.bytes);
        oldest.is_some()
    }

    fn keep(&mut self, hash: Hash, program: &Arc<Program>) {
        self.recent_bytes += program.bytes;
        self.recent.push_back((hash, Arc::clone(program)));
        while self.recent.len() > MAX_RECENT || self.recent_bytes > MAX_RECENT_BYTES {
            self.forget_oldest();
        }
        if self.all.len() >= self.swept_at {
            self.all.retain(|_, program| program.strong_count() > 0);
            self.swept_at = MAX_RECENT.max(self.all.len() * 2);
        }
        self.all.insert(hash, Arc::downgrade(program));
    }
}

impl Programs {
    /// The program of a definition that was just submitted: the known one, or this one; `None` where all together would take more than
    /// `most` bytes.
    pub(super) fn admit(&self, hash: Hash, submitted: Submitted, most: usize) -> Option<Arc<Program>> {
        let Submitted { plan, message, encoded } = submitted;
        let mut known = self.lock();
        if let Some(program) = known.find(&hash) {
            return Some(program);
        }
        // What no job needs goes first.
        while self.bytes.load(Ordering::Acquire) + encoded.len() > most {
            if !known.forget_oldest() {
                return None;
            }
        }
        Some(self.keep(&mut known, hash, (plan, message, encoded.len())))
    }

    /// The program of a definition that stands in the store. Whoever takes a job over takes it, however many there are.
    pub(super) async fn load(&self, journal: &Journal, hash: &Hash) -> Result<Arc<Program>> {
        if let Some(program) = self.lock().find(hash) {
            return Ok(program);
        }
        let bytes = journal.definition(hash).await.map_err(|error| journal_failed(&error))?;
        let length = bytes.len();
        let message = JobDefinition::decode(bytes)
            .map_err(|_| Error::new(Reason::Internal, "the definition in the store cannot be read"))?;
        let plan = compile(&message)?;
        let mut known = self.lock();
        // Another job of it may have been faster.
        Ok(known.find(hash).unwrap_or_else(|| self.keep(&mut known, *hash, (plan, message, length))))
    }

    fn keep(
        &self,
        known: &mut Known,
        hash: Hash,
        (plan, message, bytes): (Plan, JobDefinition, usize),
    ) -> Arc<Program> {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let program = Arc::new(Program { plan, message, bytes, all: Arc::clone(&self.bytes) });
        known.keep(hash, &program);
        program
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
