//! What is submitted: checked as a whole, with every mistake told at once, and brought to the one form that is stored and hashed.
//!
//! A definition is checked before anything of the job is written, so whatever is in the log can be run by this build or a newer one.

mod action;
mod flow;
mod mistakes;
mod normal;
mod read;
pub(crate) mod schema;
mod size;
mod sure;
mod targets;
#[cfg(test)]
pub(crate) mod tests;

use bytes::Bytes;
use prost::Message as _;
use weft_proto::weft::jobs::v1::{Durability, JobDefinition, SubmitJobRequest};
use weft_saga::{Definition, Direction};
use weft_types::{Error, Reason, Result};

pub(crate) use action::{Act, Call, Infer};
pub(crate) use mistakes::Mistakes;
pub(crate) use targets::REFUSAL;
pub use targets::Targets;

use super::template::{Condition, Template};

/// Bytes of a definition, with the descriptor sets in it.
const MAX_DEFINITION_BYTES: usize = 256 << 10;
/// Of one list that a step runs for.
pub(crate) const MAX_ITEMS: usize = 256;

/// A definition that has been checked.
#[derive(Debug)]
pub(crate) struct Submitted {
    /// What is run.
    pub(crate) plan: Plan,
    /// The definition with every default written out.
    pub(crate) message: JobDefinition,
    /// The same, encoded: equal definitions have equal bytes, whatever was left to defaults.
    pub(crate) encoded: Bytes,
}

/// A definition as it is run: its course, which is the engine's, and what its steps do.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The course.
    pub(crate) definition: Definition,
    /// One for each step.
    pub(crate) steps: Vec<Planned>,
    /// The job's output.
    pub(crate) output: Option<Template>,
}

/// What a step does.
#[derive(Debug)]
pub(crate) struct Planned {
    /// Forward.
    pub(crate) action: Act,
    /// Back.
    pub(crate) undo: Option<Act>,
    /// The question whether the action has had its effect.
    pub(crate) probe: Option<Act>,
    /// Whether it runs.
    pub(crate) when: Option<Condition>,
    /// For what it runs.
    pub(crate) list: Option<Template>,
}

impl Planned {
    /// What it does this way.
    pub(crate) fn act(&self, direction: Direction) -> Option<&Act> {
        match direction {
            Direction::Action => Some(&self.action),
            Direction::Undo => self.undo.as_ref(),
            Direction::Probe => self.probe.as_ref(),
        }
    }
}

impl Plan {
    /// The pools of a step that reserves, with how many slots it takes of each; nothing for another step.
    pub(crate) fn pools(&self, step: usize) -> &[(String, u32)] {
        match self.steps.get(step).map(|planned| &planned.action) {
            Some(Act::Reserve(pools)) => pools,
            _ => &[],
        }
    }
}

/// Checks what somebody wants to run.
///
/// # Errors
///
/// Names every field with a mistake, the first one as the error's field.
pub(crate) fn definition_of(request: &SubmitJobRequest, targets: &Targets) -> Result<Submitted> {
    let definition = request.definition.as_ref().ok_or_else(|| Error::invalid("definition", "is missing"))?;
    check_size(definition)?;
    let mut message = definition.clone();
    if !request.flowchart.is_empty() {
        flow::chart(&mut message, &request.flowchart)?;
    }
    normal::normalise(&mut message);
    let mut mistakes = Mistakes::default();
    let plan = read::plan(&message, true, &mut mistakes);
    // Definitions that are stored have been checked by the build that stored them, and run whatever this one says.
    if let Some(plan) = &plan {
        sure::check(plan, request.input.as_ref(), &mut mistakes);
        if message.durability() == Durability::Journaled {
            size::check(plan, &mut mistakes);
        }
    }
    mistakes.result()?;
    targets.check(&message)?;
    let plan = plan.ok_or_else(unreadable)?;
    let encoded = Bytes::from(message.encode_to_vec());
    Ok(Submitted { plan, message, encoded })
}

/// Makes of a stored definition what is run.
///
/// # Errors
///
/// When it asks for something that this build does not know.
pub(crate) fn compile(message: &JobDefinition) -> Result<Plan> {
    check_size(message)?;
    let mut message = message.clone();
    normal::normalise(&mut message);
    let mut mistakes = Mistakes::default();
    let plan = read::plan(&message, false, &mut mistakes);
    mistakes.result()?;
    plan.ok_or_else(unreadable)
}

/// Never told: where there is no plan there is a mistake.
fn unreadable() -> Error {
    Error::invalid("definition", "cannot be read")
}

fn check_size(definition: &JobDefinition) -> Result<()> {
    if definition.encoded_len() > MAX_DEFINITION_BYTES {
        let problem = format!("must be at most {MAX_DEFINITION_BYTES} bytes");
        return Err(Error::of_field(Reason::MessageTooLarge, "definition", problem));
    }
    Ok(())
}
