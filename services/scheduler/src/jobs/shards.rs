//! Which shards this scheduler has: their jobs go on here, and stop here at once when the shard goes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use weft_journal::{Owned, Record, Shard};
use weft_types::{Backoff, Reason};

use super::run::parked::Parked;
use super::run::{self, First};
use super::table::{Entry, Handle};
use super::{Program, Shared};

/// How many jobs are taken over at once: each is one transition, and what it then has done is bounded by itself.
const TAKEOVERS: usize = 256;

/// Follows what the journal says of shards until cancelled.
pub(super) async fn follow(shared: Arc<Shared>, mut owned: mpsc::Receiver<Owned>, cancel: CancellationToken) {
    let takeovers = Arc::new(Semaphore::new(TAKEOVERS));
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = owned.recv() => event,
        };
        match event {
            Some(Owned::Acquired(shard, recovered)) => {
                shared.table.acquire(shard.clone());
                if recovered.is_empty() {
                    shared.table.recovered(shard.number(), shard.epoch());
                } else {
                    // Beside this loop: what is lost meanwhile must be let go at once.
                    let recovery = recover(Arc::clone(&shared), shard, recovered, Arc::clone(&takeovers));
                    shared.tasks.spawn("job recovery", until(cancel.clone(), recovery));
                }
            }
            Some(Owned::Lost(number)) => shared.table.lose(number),
            None => return,
        }
    }
}

async fn until(cancel: CancellationToken, work: impl Future<Output = ()>) {
    // What is not taken over yet is taken over by the next owner.
    let _: Option<()> = cancel.run_until_cancelled(work).await;
}

/// Takes over the open jobs of a shard.
async fn recover(shared: Arc<Shared>, shard: Shard, recovered: Vec<Arc<Record>>, takeovers: Arc<Semaphore>) {
    let (number, jobs) = (shard.number(), recovered.len());
    for record in recovered {
        if shared.table.shard(number).is_none_or(|newest| newest.epoch() != shard.epoch()) {
            return;
        }
        take_over(&shared, &shard, record, &takeovers).await;
    }
    shared.table.recovered(number, shard.epoch());
    tracing::debug!(shard = number, jobs, "took over the jobs of a shard");
}

async fn take_over(shared: &Arc<Shared>, shard: &Shard, record: Arc<Record>, takeovers: &Arc<Semaphore>) {
    match program(shared, shard, &record).await {
        Ok(program) => {
            // It is never closed.
            let Ok(permit) = Arc::clone(takeovers).acquire_owned().await else { return };
            run::open(shared, shard, &program, record, First::TakenOver(permit));
        }
        Err(why) => park(shared, shard, record, why),
    }
}

/// The job's definition, however long the store does not answer; an error where this build cannot run it.
async fn program(shared: &Shared, shard: &Shard, record: &Record) -> Result<Arc<Program>, String> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match shared.programs.load(&shared.journal, &record.definition).await {
            Ok(program) if program.definition.steps.len() == record.job.steps.len() => return Ok(program),
            Ok(_) => return Err("its record does not fit its definition".to_owned()),
            Err(error) if error.reason() == Reason::StoreUnavailable => {
                if shared.table.shard(shard.number()).is_none() {
                    return Err("its shard has gone".to_owned());
                }
                tokio::time::sleep(backoff.next(rand::random())).await;
            }
            Err(error) => return Err(format!("its definition cannot be run by this build: {}", error.message())),
        }
    }
}

/// Keeps a job visible that cannot be run here.
fn park(shared: &Arc<Shared>, shard: &Shard, record: Arc<Record>, why: String) {
    let id = record.id.clone();
    shared.table.insert(&id, shard.epoch(), || {
        let (newest, seen) = watch::channel(Some(Arc::clone(&record)));
        let (commands, receiver) = mpsc::channel(1);
        let parked = Parked { shared: Arc::clone(shared), shard: shard.clone(), record, newest, commands: receiver };
        let task = shared.tasks.attach(async move { parked.stand(&why).await });
        Entry { handle: Handle { shard: shard.clone(), program: None, commands, newest: seen }, _task: task }
    });
}
