//! Listings: every scheduler tells of its own shards, and whoever was asked merges that, the newest job first.
//!
//! A listing lacks nothing: whoever asks says of which shards it has to hear, and who has not taken all jobs of one over yet refuses.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::try_join_all;
use tonic::Status;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use weft_journal::{JobId, Record};
use weft_proto::weft::jobs::v1::{Job, ListJobsRequest, ListJobsResponse};
use weft_proto::{error_of, status_of};
use weft_runtime::Call;
use weft_types::{Error, Reason, Result, SystemClock};

use super::check::Filter;
use super::error::journal_failed;
use super::forward::{Client, is_forwarded, taken_over};
use super::{Shared, view};

/// Listings that read ended jobs at once: each has those of one shard in memory, before it keeps what fits its page.
pub(super) const MAX_READING: usize = 4;
/// Of which shards a scheduler is asked, in hexadecimal.
const SHARDS: &str = "weft-shards";
/// How soon it is looked again whether every shard has an owner.
const LOOK: Duration = Duration::from_millis(200);
/// What is left of a call's deadline when it stops waiting for that, so that its caller hears why.
const MARGIN: Duration = Duration::from_secs(1);

/// The shards that another scheduler wants to hear of; `None` where a caller wants all.
pub(super) fn asked_of(metadata: &MetadataMap) -> Option<BTreeSet<u8>> {
    if !is_forwarded(metadata) {
        return None;
    }
    let told = metadata.get(SHARDS).map_or(&[][..], |shards| shards.as_bytes());
    let shard = |digits: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    Some(told.as_chunks::<2>().0.iter().filter_map(shard).collect())
}

impl Shared {
    /// The jobs that fit, of all schedulers; those of its own shards where another one asks. It waits for shards that are between two
    /// owners while there is time.
    pub(super) async fn list(
        &self,
        request: ListJobsRequest,
        call: &Call,
        asked: Option<BTreeSet<u8>>,
    ) -> Result<ListJobsResponse, Status> {
        let told = |error: Error| status_of(&error);
        let filter = Filter::try_new(&request).map_err(told)?;
        if let Some(asked) = asked {
            let (jobs, shards) = self.own(&filter).await.map_err(told)?;
            let missing: Vec<u8> = asked.difference(&shards).copied().collect();
            // One more than fits the page, so that whoever merges knows whether it is the last one.
            return match missing.is_empty() {
                true => Ok(ListJobsResponse { jobs, next_page_token: String::new() }),
                false => Err(told(taken_over(&missing))),
            };
        }
        loop {
            let now = SystemClock::now();
            match self.list_all(&request, &filter, call).await {
                Err(status) if is_moving(&status) && call.deadline.remaining(now) > MARGIN + LOOK => {
                    tokio::time::sleep(LOOK).await;
                }
                listed => return listed,
            }
        }
    }

    async fn list_all(
        &self,
        request: &ListJobsRequest,
        filter: &Filter,
        call: &Call,
    ) -> Result<ListJobsResponse, Status> {
        let told = |error: Error| status_of(&error);
        let (own, shards) = self.own(filter).await.map_err(told)?;
        let others = self.owners_but(&shards).map_err(told)?;
        let listed = others.iter().map(|(address, shards)| {
            let shards = AsciiMetadataValue::try_from(view::hex(shards)).ok();
            let send = |mut client: Client, mut request: tonic::Request<_>| async move {
                shards.and_then(|shards| request.metadata_mut().insert(SHARDS, shards));
                client.list_jobs(request).await
            };
            self.pass_on(address, call, request.clone(), send)
        });
        let listed = try_join_all(listed).await?;
        let all = own.into_iter().chain(listed.into_iter().flat_map(|answer| answer.into_inner().jobs)).collect();
        Ok(page(all, filter.page))
    }

    /// The jobs of this scheduler's shards that fit, and the shards of which none are missing.
    async fn own(&self, filter: &Filter) -> Result<(Vec<Job>, BTreeSet<u8>)> {
        // It is never closed.
        let _reading = self.reading.acquire().await.map_err(|_| Error::new(Reason::Internal, "listings are closed"))?;
        let (open, shards) = self.table.records(SystemClock::now());
        let mut jobs: Vec<Job> =
            open.iter().filter(|record| filter.takes_page(record)).map(|record| self.shown(record)).collect();
        let unread = self.journal.set_aside();
        jobs.extend(unread.iter().filter(|id| filter.takes_unread(id)).map(|id| view::unread(id, &self.id)));
        newest(&mut jobs, filter.page + 1);
        for &shard in &shards {
            let fits = |record: &Record| filter.takes_page(record);
            let ended = self.journal.list_ended(shard, fits, filter.page + 1).await;
            jobs.extend(ended.map_err(|error| journal_failed(&error))?.iter().map(|record| self.shown(record)));
            // Only as many as can be told are kept, and one more that tells whether there are others.
            newest(&mut jobs, filter.page + 1);
        }
        Ok((jobs, shards))
    }

    fn shown(&self, record: &Record) -> Job {
        view::summary(record, &self.id)
    }
}

/// Whether a listing was refused for jobs that are between two schedulers.
fn is_moving(status: &Status) -> bool {
    let error = error_of(status);
    error.reason() == Reason::NoReadyReplica && error.pushback().is_some()
}

/// The newest of these jobs, each once: a job that ends while it is listed may have been seen as both.
fn newest(jobs: &mut Vec<Job>, size: usize) {
    let place = |job: &Job| job.id.parse().map(|id: JobId| (id.ulid().to_owned(), id.shard())).unwrap_or_default();
    jobs.sort_by_cached_key(|job| Reverse((place(job), job.revision)));
    jobs.dedup_by(|later, first| later.id == first.id);
    jobs.truncate(size);
}

/// One page of what all schedulers told.
fn page(mut jobs: Vec<Job>, size: usize) -> ListJobsResponse {
    newest(&mut jobs, size + 1);
    let more = jobs.len() > size;
    jobs.truncate(size);
    let next_page_token = jobs.last().filter(|_| more).map(|job| job.id.clone()).unwrap_or_default();
    ListJobsResponse { jobs, next_page_token }
}
