//! Steady load from several callers, with every failure counted.
//!
//! A caller knows several routers, as a gRPC client with round-robin does: a call that could not even be sent to one of them
//! goes to the next, which gRFC A6 calls a transparent retry. Everything else that fails is a failure.
//!
//! For benchmarks there are calls in a [`closed`] loop and calls that arrive at random, as a [`poisson`] process.

pub mod closed;
pub mod poisson;
pub mod rounds;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weft_proto::error_of;
use weft_proto::inference::ModelInferRequest;
use weft_types::Reason;

use crate::calls::{Caller, until};

/// What became of the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Calls that were answered.
    pub answered: u64,
    /// And by which versions of the model.
    pub versions: BTreeMap<String, u64>,
    /// The failures, as the callers saw them.
    pub failures: Vec<String>,
}

/// Load that runs until it is stopped.
pub struct Load {
    stop: CancellationToken,
    answered: Arc<AtomicU64>,
    callers: JoinSet<(BTreeMap<String, u64>, Vec<String>)>,
}

/// Whether the client's own channel said that the call never left. A router's refusal carries headers from the wire.
fn is_unsent(status: &Status) -> bool {
    status.metadata().get("content-type").is_none() && error_of(status).reason() == Reason::NoReadyReplica
}

impl Load {
    /// Starts `callers` that each send `message` again and again, in turn to each of `targets`.
    pub fn start(targets: &[Caller], message: &ModelInferRequest, callers: usize, limit: Duration) -> Self {
        let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for index in 0..callers {
            let (targets, message, stop, answered) =
                (targets.to_vec(), message.clone(), stop.clone(), Arc::clone(&answered));
            tasks.spawn(async move {
                let (mut versions, mut failures) = (BTreeMap::new(), Vec::new());
                let mut unsent = 0;
                for target in targets.iter().cycle().skip(index) {
                    if stop.is_cancelled() {
                        break;
                    }
                    match target.infer(message.clone(), limit).await {
                        Ok(answer) => {
                            *versions.entry(answer.into_inner().model_version).or_default() += 1;
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(status) if is_unsent(&status) && unsent + 1 < targets.len() => {
                            unsent += 1;
                            continue;
                        }
                        Err(status) => failures.push(format!("{:?}: {}", status.code(), status.message())),
                    }
                    unsent = 0;
                }
                (versions, failures)
            });
        }
        Self { stop, answered, callers: tasks }
    }

    /// Waits until this many more calls have been answered.
    pub async fn pass(&self, more: u64) -> Result<()> {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        until("more answered calls", async || self.answered.load(Ordering::Relaxed) >= goal).await
    }

    /// Ends the load when every call under way has ended.
    pub async fn stop(mut self) -> Result<Outcome> {
        self.stop.cancel();
        let mut outcome = Outcome::default();
        while let Some(ended) = self.callers.join_next().await {
            let (versions, failures) = ended?;
            for (version, calls) in versions {
                outcome.answered += calls;
                *outcome.versions.entry(version).or_default() += calls;
            }
            outcome.failures.extend(failures);
        }
        Ok(outcome)
    }
}
