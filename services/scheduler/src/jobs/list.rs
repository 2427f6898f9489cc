//! Listings: every scheduler tells of its own shards, and whoever was asked merges that, the newest job first.

use std::sync::Arc;

use futures_util::future::try_join_all;
use tonic::Status;
use weft_journal::{JobId, Record};
use weft_proto::status_of;
use weft_proto::weft::jobs::v1::{Job, ListJobsRequest, ListJobsResponse};
use weft_runtime::Call;
use weft_types::Result;

use super::check::Filter;
use super::forward::unowned;
use super::{Shared, view};

impl Shared {
    /// The jobs that fit, of all schedulers.
    pub(super) async fn list(&self, request: ListJobsRequest, call: &Call, is_forwarded: bool) -> Result<ListJobsResponse, Status> {
        let filter = Filter::try_new(&request).map_err(|error| status_of(&error))?;
        let own = self.own(&filter).await.map_err(|error| status_of(&error))?;
        if is_forwarded {
            return Ok(page(own, filter.page));
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
        let open = self.table.records();
        let mut jobs: Vec<Job> = open.iter().filter(|record| filter.takes_page(record)).map(|record| self.shown(record)).collect();
        for shard in self.table.numbers() {
            let mut after: Option<JobId> = None;
            loop {
                let ended: Vec<Record> = self.journal.list_ended(shard, after.as_ref(), ENDED_PAGE).await?;
                let full = ended.len() >= ENDED_PAGE;
                after = ended.last().map(|record| record.id.clone());
                jobs.extend(ended.iter().filter(|record| filter.takes_page(record)).map(|record| self.shown(record)));
                if !full {
                    break;
                }
                // Only as many as can be told are kept.
                jobs = page(jobs, filter.page + 1).jobs;
            }
        }
        Ok(jobs)
    }

    fn shown(&self, record: &Record) -> Job {
        view::summary(record, &self.id)
    }
}

/// The newest of these jobs, each once: a job that ends while it is listed may have been seen as both.
fn page(mut jobs: Vec<Job>, size: usize) -> ListJobsResponse {
    jobs.sort_by_cached_key(|job| std::cmp::Reverse((place(&job.id), job.revision)));
    jobs.dedup_by(|later, first| later.id == first.id);
    let more = jobs.len() > size;
    jobs.truncate(size);
    let next_page_token = jobs.last().filter(|_| more).map(|job| job.id.clone()).unwrap_or_default();
    ListJobsResponse { jobs, next_page_token }
}
