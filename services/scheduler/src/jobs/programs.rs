//! Definitions that are ready to be run, kept for the next job of the same one.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message as _;
use weft_journal::{Hash, Journal};
use weft_proto::weft::jobs::v1::JobDefinition;
use weft_types::{Error, Reason, Result};

use super::definition::{Plan, compile};
use super::error::journal_failed;

/// The ones used last: most jobs of a mesh are of few definitions.
const MAX_PROGRAMS: usize = 256;

/// A definition as it is run, and as it was submitted.
#[derive(Debug)]
pub(super) struct Program {
    plan: Plan,
    /// With every default written out.
    pub(super) message: JobDefinition,
}

impl Deref for Program {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.plan
    }
}

/// Programs by their definition's hash, the one used last at the end.
#[derive(Default)]
pub(super) struct Programs(Mutex<VecDeque<(Hash, Arc<Program>)>>);

impl Programs {
    fn known(&self, hash: &Hash) -> Option<Arc<Program>> {
        // Each entry is whole at any point: a panic elsewhere cannot have left one half changed.
        let mut programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = programs.iter().position(|(known, _)| known == hash)?;
        let found = programs.remove(at)?;
        let program = Arc::clone(&found.1);
        programs.push_back(found);
        Some(program)
    }

    /// The program of a definition that was just submitted.
    pub(super) fn keep(&self, hash: Hash, plan: Plan, message: JobDefinition) -> Arc<Program> {
        if let Some(program) = self.known(&hash) {
            return program;
        }
        let program = Arc::new(Program { plan, message });
        let mut programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if programs.len() >= MAX_PROGRAMS {
            programs.pop_front();
        }
        programs.push_back((hash, Arc::clone(&program)));
        program
    }

    /// The program of a definition that stands in the store.
    pub(super) async fn load(&self, journal: &Journal, hash: &Hash) -> Result<Arc<Program>> {
        if let Some(program) = self.known(hash) {
            return Ok(program);
        }
        let bytes = journal.definition(hash).await.map_err(|error| journal_failed(&error))?;
        let message = JobDefinition::decode(bytes)
            .map_err(|_| Error::new(Reason::Internal, "the definition in the store cannot be read"))?;
        let plan = compile(&message)?;
        Ok(self.keep(*hash, plan, message))
    }
}
