//! Calls about jobs that are another scheduler's: passed on once, to the owner of the job's shard.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};
use weft_client::{Channel, ChannelOptions, outgoing, within};
use weft_proto::weft::jobs::v1::jobs_client::JobsClient;
use weft_proto::{error_of, status_of};
use weft_runtime::{Call, Tasks};
use weft_types::{Error, Reason, Result, SystemClock};

use super::Shared;

/// Marks a call that has been passed on: whoever gets it answers it or refuses it.
const FORWARDED: &str = "weft-forwarded";
/// How long to wait until a shard may have an owner again. A lease runs out in seconds.
const RETRY: Duration = Duration::from_millis(500);
/// The longest answer of another scheduler.
const LONGEST_ANSWER: usize = 64 << 20;
/// A channel to a scheduler that has no shard any more is of no use.
const MAX_PEERS: usize = 256;

/// How many shards are named that have no owner.
const MAX_TOLD: usize = 16;

/// A client of another scheduler.
pub(super) type Client = JobsClient<Channel>;

/// Who answers a call.
pub(super) enum Place {
    Here,
    At(String),
}

/// Whether another scheduler passed a call on.
pub(super) fn is_forwarded(metadata: &MetadataMap) -> bool {
    metadata.contains_key(FORWARDED)
}

/// The refusal of a call that nobody can answer yet.
pub(super) fn unowned(why: &str) -> Error {
    Error::new(Reason::NoReadyReplica, why.to_owned()).retry_after(RETRY)
}

/// The refusal of a listing that would lack jobs.
pub(super) fn taken_over(shards: &[u8]) -> Error {
    let told: Vec<String> = shards.iter().take(MAX_TOLD).map(|shard| format!("{shard:02x}")).collect();
    let more = shards.len().saturating_sub(MAX_TOLD);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    unowned(&format!("jobs are being taken over, and a listing would lack those of shards {}{more}", told.join(", ")))
}

/// Channels to other schedulers, by address.
#[derive(Default)]
pub(super) struct Peers(Mutex<BTreeMap<String, Channel>>);

impl Peers {
    fn channel(&self, address: &str, tasks: &Tasks) -> Result<Channel> {
        // A map of channels is whole at any point: a panic elsewhere cannot have left it half changed.
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        if channels.len() >= MAX_PEERS {
            channels.clear();
        }
        let options = ChannelOptions { connections: 1, ..ChannelOptions::default() };
        let channel = Channel::new(address, options, tasks)?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

impl Shared {
    /// Who answers calls about the jobs of a shard: here only while nobody else can have them.
    pub(super) fn place(&self, shard: u8, is_forwarded: bool) -> Result<Place> {
        if self.table.shard(shard).is_some_and(|shard| shard.holds(SystemClock::now())) {
            return Ok(Place::Here);
        }
        match self.journal.owner(shard) {
            Some(owner) if owner.address == self.address => {
                Err(unowned("this scheduler does not run the job's shard yet, or may have lost it"))
            }
            Some(owner) if !is_forwarded => Ok(Place::At(owner.address)),
            Some(_) => Err(unowned("the job's shard has just moved to another scheduler")),
            None => Err(unowned("no scheduler runs the job's shard at the moment")),
        }
    }

    /// The addresses of all other schedulers that have shards.
    pub(super) fn others(&self) -> Vec<String> {
        let owners = (0..=u8::MAX).filter_map(|shard| self.journal.owner(shard));
        let mut others: Vec<_> = owners.map(|owner| owner.address).collect();
        others.retain(|address| *address != self.address);
        others.sort_unstable();
        others.dedup();
        others
    }

    /// Who else has the shards that are not among `own`, by address; an error that names those which nobody has.
    pub(super) fn owners_but(&self, own: &BTreeSet<u8>) -> Result<BTreeMap<String, Vec<u8>>> {
        let (mut others, mut missing): (BTreeMap<String, Vec<u8>>, _) = (BTreeMap::new(), Vec::new());
        for shard in (0..=u8::MAX).filter(|shard| !own.contains(shard)) {
            match self.journal.owner(shard).filter(|owner| owner.address != self.address) {
                Some(owner) => others.entry(owner.address).or_default().push(shard),
                None => missing.push(shard),
            }
        }
        if missing.is_empty() { Ok(others) } else { Err(taken_over(&missing)) }
    }

    /// Passes a call on, with its deadline and its trace.
    pub(super) async fn pass_on<M, A, F>(
        &self,
        address: &str,
        call: &Call,
        message: M,
        send: impl FnOnce(Client, Request<M>) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let told = |error: Error| status_of(&error);
        let channel = self.peers.channel(address, &self.tasks).map_err(told)?;
        let client = JobsClient::new(channel).max_decoding_message_size(LONGEST_ANSWER);
        let span = self.scope.start_client("weft.jobs.v1.Jobs", Some(&call.trace));
        let mut request = outgoing(message, call.deadline, span.context()).map_err(told)?;
        request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
        within(call.deadline, send(client, request)).await.map_err(|status| match status.code() {
            // It may have gone for good: its shards then have another owner soon.
            Code::Unavailable if error_of(&status).pushback().is_none() => {
                tracing::debug!(address, %status, "the scheduler that runs a job was not reached");
                status_of(&unowned("the scheduler that runs the job was not reached"))
            }
            _ => status,
        })
    }
}
