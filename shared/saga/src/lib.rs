//! The engine of jobs: sagas (Garcia-Molina and Salem, 1987) over a directed acyclic graph, as a pure state machine.
//!
//! - [`definition`]: what a job is made of, checked once.
//! - [`job`]: [`Job`], all that is known of one job. It is what the log keeps; there is no other state.
//! - [`event`]: what can happen to it; [`Job::apply`] is the transition.
//! - [`wants`]: what shall be under way for it.
//! - [`mermaid`]: jobs as flowcharts, and definitions' edges from flowcharts.
//!
//! The engine has no clock, no randomness and no IO: each takes `now` and a random number. What shall be under way is a function of the
//! job alone, so a scheduler that takes a job over does what its first one would have done.

mod apply;
mod check;
pub mod definition;
pub mod event;
mod graph;
pub mod job;
pub mod mermaid;
mod pause;
mod standing;
pub mod wants;

pub use apply::Changed;
pub use definition::{Definition, Effect, Invalid, Join, Kind, Phase, Retry, Step};
pub use event::{Event, Fault, Outcome, Refused, Ruling, Verb};
pub use job::{Attempt, Direction, Hold, Item, Job, JobState, Payload, Place, StepState};
pub use wants::{Wanted, Wants};

/// Milliseconds since 1970 in UTC: schedulers that take jobs over from each other share nothing else.
pub type Millis = u64;
