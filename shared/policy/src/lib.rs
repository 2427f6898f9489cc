//! Pure decisions: everything that the mesh chooses, and nothing that it does.
//!
//! A policy takes what it needs to know (a snapshot, `now`, a random source) and returns a decision. It does no IO, reads
//! no clock and draws no hidden randomness, so it is property-tested and simulated as the same code that serves.
//!
//! - [`admit`]: which calls are under way at once, which wait, and which are refused
//! - [`split`]: which target of a route takes a call
//! - [`mod@choose`]: which replica takes a call
//! - [`retry`]: whether a failed call may go again, and what retries may cost
//! - [`hedge`]: when a call that takes long goes to another replica as well
//! - [`learn`]: how long a model takes for a number of rows, and whether a deadline can be met
//! - [`batch`]: which waiting requests run together, and when
//! - [`place`]: which worker holds which model version
//! - [`rollout`]: how one version of a model takes the place of another, and when it must not
//! - [`scale`]: how many replicas a model's demand needs
//! - [`step`]: which sequences of a language model step together, and with how many tokens
//! - [`preempt`]: which execution makes way for a request that would be late otherwise
//! - [`eject`]: which replicas and workers are sent nothing for a while, since calls to them fail
//! - [`rate`]: how much there is of something per second
//! - [`guard`]: whether workers that vanish from the store have ended

pub mod admit;
pub mod batch;
pub mod choose;
pub mod eject;
pub mod guard;
pub mod hedge;
pub mod learn;
pub mod place;
pub mod preempt;
pub mod rate;
pub mod retry;
pub mod rollout;
pub mod scale;
pub mod split;
pub mod step;

pub use choose::{Affinity, Candidate, Terms, choose};
pub use learn::Latency;
