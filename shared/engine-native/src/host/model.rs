//! A model in an engine process, as the execution port has it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use weft_engine::{Batch, Error, Hold, Inputs, Language, Model, Outputs, Signature, Tensor, batching};

use super::batch::Gathering;
use super::connection::{Connection, Delivery};
use super::process::Starter;
use crate::arena::{Arena, Buffer};
use crate::protocol::{Execute, Executed, Region, command, event};

/// Room that outputs have needed, by the power of two of their rows.
type Rooms = Mutex<HashMap<u32, u64>>;

/// Whoever holds this needs the process.
#[derive(Debug)]
pub(super) struct Owner(pub(super) Arc<Connection>);

impl Drop for Owner {
    // The process's watcher waits for its end, and ends it when that takes too long.
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A loaded model. Dropping it ends its process.
pub(super) struct Hosted {
    pub(super) owner: Owner,
    /// Processes end with the thread that started them.
    pub(super) _starter: Starter,
    pub(super) arena: Arena,
    pub(super) signature: Signature,
    pub(super) size_bytes: u64,
    pub(super) language: Option<Box<dyn Language>>,
    pub(super) rooms: Rooms,
}

#[async_trait]
impl Model for Hosted {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn warm(&self) -> Result<(), Error> {
        if self.language.is_some() {
            return Ok(());
        }
        // Free axes are not guessed: those models are warm after their first requests.
        let made = batching::made_up(&self.signature.inputs, 1, self.arena.limit())?;
        let Some(request) = made else { return Ok(()) };
        self.execute(vec![request].into()).await?.into_iter().try_for_each(|answer| answer.map(|_| ()))
    }

    async fn execute(&self, batch: Batch) -> Result<Vec<Result<Outputs, Error>>, Error> {
        let Batch { requests: batch, hold } = batch;
        let mut answers: Vec<Result<Outputs, Error>> = batch.iter().map(|_| Err(no_answer())).collect();
        for group in self.groups(&batch) {
            let together = self.attempt(group.iter().map(|at| &batch[*at]).collect(), &hold).await;
            match together {
                Ok(outputs) => group.iter().zip(outputs).for_each(|(at, outputs)| answers[*at] = Ok(outputs)),
                // The process is gone: nobody fares better alone.
                Err(error @ Error::Lost(_)) => return Err(error),
                Err(error) if group.len() == 1 => answers[group[0]] = Err(error),
                // One request's failure is not the others': each gets the answer it would have had alone.
                Err(_) => {
                    for at in group {
                        answers[at] = match self.alone(&batch[at], &hold).await {
                            Err(error @ Error::Lost(_)) => return Err(error),
                            answer => answer,
                        };
                    }
                }
            }
        }
        Ok(answers)
    }

    fn language(&self) -> Option<&dyn Language> {
        self.language.as_deref()
    }

    async fn lost(&self) -> String {
        self.owner.0.lost().await
    }
}

impl Hosted {
    /// The requests that go together, no more rows than the model takes.
    fn groups(&self, batch: &[Inputs]) -> Vec<Vec<usize>> {
        let max = self.signature.max_batch_size;
        let mut groups = Vec::new();
        for group in batching::groups(batch, max) {
            let (mut part, mut rows) = (Vec::new(), 0);
            for at in group {
                let own = batch[at].first().map_or(1, Tensor::rows);
                if !part.is_empty() && rows + own > max {
                    groups.push(std::mem::take(&mut part));
                    rows = 0;
                }
                part.push(at);
                rows += own;
            }
            groups.push(part);
        }
        groups
    }

    async fn alone(&self, request: &Inputs, hold: &Hold) -> Result<Outputs, Error> {
        self.attempt(vec![request], hold).await?.pop().ok_or_else(no_answer)
    }

    /// One execution; a second one when the outputs turn out to need more room than was thought.
    async fn attempt(&self, requests: Vec<&Inputs>, hold: &Hold) -> Result<Vec<Outputs>, Error> {
        requests.iter().flat_map(|request| request.iter()).try_for_each(batching::check_empty)?;
        let gathering = Gathering::new(requests, &self.signature)?;
        let class = gathering.size().next_power_of_two().trailing_zeros();
        let guess = || gathering.guessed_room(self.arena.limit()).max(self.learned_room(class));
        let mut wanted = gathering.known_room(&self.signature.outputs).unwrap_or_else(guess);
        loop {
            let (executed, room) = self.run(&gathering, wanted, hold).await?;
            if executed.needed == 0 {
                let base = room.offset();
                let room = room.freeze(used(&executed, base));
                return gathering.scatter(&executed.outputs, &self.signature, (base, &room));
            }
            if executed.needed <= wanted {
                return Err(no_answer());
            }
            // A quarter more than was needed, so that slightly longer answers fit at once.
            wanted = executed.needed.saturating_add(executed.needed / 4).min(self.arena.limit()).max(executed.needed);
            self.learn_room(class, wanted);
        }
    }

    fn learned_room(&self, class: u32) -> u64 {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner).get(&class).copied().unwrap_or_default()
    }

    /// What one very long answer needed must not be set aside for every other, so there is a bound.
    fn learn_room(&self, class: u32, needed: u64) {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let learned = rooms.entry(class).or_default();
        *learned = needed.max(*learned).min(self.arena.limit() / 4);
    }

    /// Sends one execution and waits for its end. Dropping the future cancels it; its buffers are kept until it has stopped.
    async fn run(&self, gathering: &Gathering<'_>, wanted: u64, hold: &Hold) -> Result<(Executed, Buffer), Error> {
        let too_large = |_| {
            let limit = self.arena.limit() >> 20;
            Error::Full(format!("inputs and outputs do not fit into the {limit} MiB that they may take together"))
        };
        let connection = &self.owner.0;
        let [mut inputs, room] = tokio::select! {
            taken = self.arena.take([gathering.length, wanted]) => taken.map_err(too_large)?,
            // Room may be held by whoever reads answers slowly; without the process nobody needs it.
            reason = connection.lost() => return Err(Error::Lost(reason)),
        };
        gathering.fill(inputs.bytes_mut())?;
        let tensors = gathering.tensors(inputs.offset());
        let region = Region { offset: room.offset(), length: room.length() };
        let mut ticket = connection.begin(1, vec![inputs, room])?;
        let execute = Execute { id: ticket.id(), inputs: tensors, room: Some(region) };
        ticket.keep(hold.clone());
        ticket.start(command::Body::Execute(execute))?;
        match ticket.next().await? {
            Delivery { body: event::Body::Executed(executed), mut held } => {
                held.pop().map(|room| (executed, room)).ok_or_else(no_answer)
            }
            // Only who has gone is told of a stop.
            _ => Err(no_answer()),
        }
    }
}

/// The end of the last output, within its room.
fn used(executed: &Executed, base: u64) -> u64 {
    let ends = executed.outputs.iter().map(|tensor| tensor.offset.saturating_add(tensor.length).saturating_sub(base));
    ends.max().unwrap_or(0)
}

fn no_answer() -> Error {
    Error::Run("the runtime lost an answer".to_owned())
}
