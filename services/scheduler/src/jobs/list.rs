//! Listings: every scheduler tells of its own shards, and whoever was asked merges that, the newest job first.

use std::cmp::Reverse;

use futures_util::future::try_join_all;
use tonic::Status;
use weft_journal::{JobId, Record};
use weft_proto::status_of;
use weft_proto::weft::jobs::v1::{Job, ListJobsRequest, ListJobsResponse};
use weft_runtime::Call;
use weft_types::{Result, SystemClock};

use super::check::Filter;
use super::error::journal_failed;
use super::forward::unowned;
use super::{Shared, view};

impl Shared {
    /// The jobs that fit, of all schedulers.
    pub(super) async fn list(
        &self,
        request: ListJobsRequest,
        call: &Call,
        is_forwarded: bool,
    ) -> Result<ListJobsResponse, Status> {
        let filter = Filter::try_new(&request).map_err(|error| status_of(&error))?;
        let own = self.own(&filter).await.map_err(|error| status_of(&error))?;
        if is_forwarded {
            // One more than fits the page, so that whoever merges knows whether it is the last one.
            return Ok(ListJobsResponse { jobs: own, next_page_token: String::new() });
        }
        let (others, whole) = self.others();
        if !whole {
            return Err(status_of(&unowned("some jobs are being taken over: a listing would lack them")));
        }
        let told = others.iter().map(|address| {
            let request = request.clone();
            self.pass_on(address, call, request, |mut client, request| async move { client.list_jobs(request).await })
        });
        let told = try_join_all(told).await?;
        let all = own.into_iter().chain(told.into_iter().flat_map(|answer| answer.into_inner().jobs)).collect();
        Ok(page(all, filter.page))
    }

    /// The jobs of this scheduler's shards that fit.
    async fn own(&self, filter: &Filter) -> Result<Vec<Job>> {
        if !self.table.holds(SystemClock::now()) {
            return Err(unowned("this scheduler may have lost some of its jobs: a listing would be wrong about them"));
        }
        let open = self.table.records();
        let mut jobs: Vec<Job> =
            open.iter().filter(|record| filter.takes_page(record)).map(|record| self.shown(record)).collect();
        let unread = self.journal.set_aside();
        jobs.extend(unread.iter().filter(|id| filter.takes_unread(id)).map(|id| view::unread(id, &self.id)));
        newest(&mut jobs, filter.page + 1);
        for shard in self.table.numbers() {
            let ended =
                self.journal.list_ended(shard, None, usize::MAX).await.map_err(|error| journal_failed(&error))?;
            jobs.extend(ended.iter().filter(|record| filter.takes_page(record)).map(|record| self.shown(record)));
            // Only as many as can be told are kept, and one more that tells whether there are others.
            newest(&mut jobs, filter.page + 1);
        }
        Ok(jobs)
    }

    fn shown(&self, record: &Record) -> Job {
        view::summary(record, &self.id)
    }
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
