//! What becomes of the calls of one model's version.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use tonic::Code;
use weft_types::{ModelName, Version};

use super::{Instruments, Metrics, names, status_name};

/// What tokens were to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Of its prompt, computed for it.
    Input,
    /// Of its prompt, computed for an earlier one and shared.
    Cached,
    /// Generated.
    Output,
}

impl Tokens {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Cached => "cached",
            Self::Output => "output",
        }
    }
}

impl Metrics {
    /// The instruments of one model's version, to be kept for as long as it is loaded or routed to.
    pub fn model(&self, model: &ModelName, version: Version) -> ModelMetrics {
        ModelMetrics {
            instruments: Arc::clone(&self.0),
            attributes: [
                KeyValue::new(names::MODEL, Arc::<str>::from(model.as_str())),
                // Text, so that the label reads the same everywhere.
                KeyValue::new(names::VERSION, Arc::<str>::from(version.to_string())),
            ],
        }
    }
}

/// One model's version: what is recorded carries its name and version.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    instruments: Arc<Instruments>,
    attributes: [KeyValue; 2],
}

impl ModelMetrics {
    /// A request that ended on a worker, from admission to answer.
    pub fn record_call(&self, code: Code, elapsed: Duration) {
        let [model, version] = self.attributes.clone();
        let attributes = [model, version, KeyValue::new(names::STATUS, status_name(code))];
        self.instruments.model_call.record(elapsed.as_secs_f64(), &attributes);
    }

    /// How long a request waited before it was executed.
    pub fn record_queue(&self, waited: Duration) {
        self.instruments.model_queue.record(waited.as_secs_f64(), &self.attributes);
    }

    /// How long the batch that held a request was executed: once for each request, so that sums divide by requests.
    pub fn record_compute(&self, computed: Duration) {
        self.instruments.model_compute.record(computed.as_secs_f64(), &self.attributes);
    }

    /// How many requests an executed batch held: once for each batch.
    pub fn record_batch(&self, requests: usize) {
        self.instruments.model_batch.record(requests as u64, &self.attributes);
    }

    /// The first token of a sequence.
    pub fn record_first_token(&self, waited: Duration) {
        self.instruments.time_to_first_token.record(waited.as_secs_f64(), &self.attributes);
    }

    /// Further tokens of a sequence that came together: each took its share of the wait.
    pub fn record_next_tokens(&self, waited: Duration, tokens: u32) {
        let share = waited.as_secs_f64() / f64::from(tokens.max(1));
        (0..tokens).for_each(|_| self.instruments.time_per_output_token.record(share, &self.attributes));
    }

    /// Tokens of a sequence.
    pub fn record_tokens(&self, tokens: Tokens, count: u32) {
        let [model, version] = self.attributes.clone();
        let attributes = [model, version, KeyValue::new(names::TOKEN_TYPE, tokens.as_str())];
        self.instruments.tokens.add(count.into(), &attributes);
    }

    /// An execution that was stopped because nobody waited, `after` the last caller had gone.
    pub fn record_stopped(&self, after: Duration) {
        self.instruments.work_stopped.add(1, &self.attributes);
        self.instruments.cancel_to_stop.record(after.as_secs_f64(), &self.attributes);
    }

    /// An execution that was stopped for something more urgent, `after` it had been told to: its requests are executed later.
    pub fn record_preempted(&self, after: Duration) {
        self.record_preemptions(1);
        self.instruments.preempt_to_stop.record(after.as_secs_f64(), &self.attributes);
    }

    /// Sequences that lost their slots for more urgent ones: they go on later.
    pub fn record_preemptions(&self, times: u32) {
        self.instruments.preemptions.add(times.into(), &self.attributes);
    }

    /// Time computed for callers who had stopped waiting.
    pub fn record_wasted(&self, computed: Duration) {
        self.instruments.wasted_compute.add(computed.as_secs_f64(), &self.attributes);
    }

    /// The process that held the model was lost.
    pub fn record_lost(&self) {
        self.instruments.model_lost.add(1, &self.attributes);
    }

    /// A request whose input has ended the model's process several times.
    pub fn record_quarantined(&self) {
        self.instruments.quarantine_refused.add(1, &self.attributes);
    }

    /// Another attempt at a call.
    pub fn record_retry(&self) {
        self.instruments.retries.add(1, &self.attributes);
    }

    /// A hedged call that ended after so many attempts beyond the first.
    pub fn record_hedges(&self, hedges: u32) {
        self.instruments.hedges.record(hedges.into(), &self.attributes);
    }

    /// Counts a call as in flight until the guard is dropped, also when its future is.
    pub fn in_flight(&self) -> InFlight {
        self.instruments.in_flight.add(1, &self.attributes);
        InFlight(self.clone())
    }
}

/// A call in flight.
#[derive(Debug)]
#[must_use = "the call counts as ended when this is dropped"]
pub struct InFlight(ModelMetrics);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.instruments.in_flight.add(-1, &self.0.attributes);
    }
}
