//! A sequence as what may end the model's process.
//!
//! All sequences of a language model run in one process, so a lost one makes suspects of all that it had. Suspects run one after
//! the other from then on, beside sequences that are none: who ends the process again does so without the other suspects, which
//! their own ends clear.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use weft_engine::Tensor;
use weft_types::{Result, SystemClock};

use crate::quarantine::{self, Digest, Standing};
use crate::replica::Replica;

/// What is to be said for or against a sequence's inputs at its end.
pub(super) struct Trial {
    replica: Arc<Replica>,
    inputs: Vec<Tensor>,
    /// Of a suspect, with its turn.
    suspect: Option<(Digest, OwnedSemaphorePermit)>,
}

impl Trial {
    /// Waits for a suspect's turn; refuses what has ended the process too often.
    pub(super) async fn begin(replica: &Arc<Replica>, inputs: Vec<Tensor>) -> Result<Self> {
        let judge = || match replica.quarantine.judge(&inputs, SystemClock::now()) {
            Standing::Clear => Ok(None),
            Standing::Suspect(digest) => Ok(Some(digest)),
            Standing::Refused => {
                replica.metrics.record_quarantined();
                Err(quarantine::refusal())
            }
        };
        let mut suspect = None;
        if judge()?.is_some() {
            let turn = replica.suspects_turn().await?;
            // The one before it may have been the same input.
            suspect = judge()?.map(|digest| (digest, turn));
        }
        Ok(Self { replica: Arc::clone(replica), inputs, suspect })
    }

    pub(super) const fn is_of_suspect(&self) -> bool {
        self.suspect.is_some()
    }

    /// The sequence has ended as sequences do.
    pub(super) fn acquit(self) {
        if let Some((digest, _turn)) = self.suspect {
            self.replica.quarantine.clear(digest);
        }
    }

    /// The process was lost while the sequence was there.
    pub(super) fn blame(self) {
        self.replica.blame(std::iter::once(Digest::of(&self.inputs)));
    }
}
