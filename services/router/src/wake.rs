//! Models that demand decides over, and that have no replica: the first call that is held for one wakes it.
//!
//! The scheduler is asked once for each model, however many calls wait, and again for as long as some do: it may have changed its
//! leader meanwhile, and must not take a model for idle that calls wait for. Calls wait for a replica, never for the scheduler's answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tonic::Status;
use weft_client::{Mesh, outgoing, within};
use weft_proto::status_of;
use weft_proto::weft::scheduler::v1::WakeModelRequest;
use weft_proto::weft::scheduler::v1::scheduler_client::SchedulerClient;
use weft_runtime::{Running, Tasks};
use weft_telemetry::Scope;
use weft_types::{Backoff, Deadline, ModelName, SystemClock};

use crate::Inner;
use crate::forward::{Peers, SCHEDULER};
use crate::identify::Wanted;
use crate::table::Table;

/// Between two requests while calls wait: a model that is asked for more seldom than this counts as one that nobody calls.
const AGAIN: Duration = Duration::from_secs(1);
/// After a failure.
const BACKOFF: Duration = Duration::from_millis(50);
/// How long an answer of the scheduler is waited for.
const LIMIT: Duration = Duration::from_secs(2);

/// Models that calls are held for.
#[derive(Default)]
pub(crate) struct Wakes {
    /// Held for a look or an addition, never across an await.
    asking: Mutex<BTreeMap<ModelName, Weak<Asking>>>,
}

/// That calls wait for a model. The last one to drop it ends the asking.
#[must_use = "dropping it ends the asking"]
pub(crate) struct Asking {
    _task: Running,
}

/// What asking takes.
#[derive(Clone)]
struct Way {
    mesh: Mesh,
    peers: Arc<Peers>,
    tasks: Tasks,
    scope: Scope,
}

impl Wakes {
    /// Asks for these models until what is returned is dropped.
    fn ask(&self, models: &[&ModelName], way: impl Fn() -> Way) -> Vec<Arc<Asking>> {
        if models.is_empty() {
            return Vec::new();
        }
        // Each entry is whole at any point.
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        asking.retain(|_, held| held.strong_count() > 0);
        let held = models.iter().map(|model| {
            if let Some(held) = asking.get(*model).and_then(Weak::upgrade) {
                return held;
            }
            let way = way();
            let task = way.tasks.attach(ask(way.clone(), ModelName::clone(model)));
            let held = Arc::new(Asking { _task: task });
            asking.insert(ModelName::clone(model), Arc::downgrade(&held));
            held
        });
        held.collect()
    }
}

impl Inner {
    /// Wakes what a held call could go to, where demand decides over it, until what is returned is dropped.
    pub(crate) fn wake(&self, wanted: &Wanted<'_>) -> Vec<Arc<Asking>> {
        let table = self.table.load();
        self.wakes.ask(&sleeping(&table, wanted), || self.way())
    }

    /// Wakes a model, if demand decides over it, until what is returned is dropped.
    pub(crate) fn wake_model(&self, name: &ModelName) -> Option<Arc<Asking>> {
        let is_on_demand = self.table.load().model(name.as_str()).is_some_and(|model| model.on_demand);
        if is_on_demand { self.wakes.ask(&[name], || self.way()).pop() } else { None }
    }

    fn way(&self) -> Way {
        let (mesh, peers) = (self.mesh.clone(), Arc::clone(&self.peers));
        Way { mesh, peers, tasks: self.tasks.clone(), scope: self.scope.clone() }
    }
}

/// The models that a held call could go to and that a call brings back.
fn sleeping<'a>(table: &'a Table, wanted: &Wanted<'_>) -> Vec<&'a ModelName> {
    let on_demand = |name: &str| table.named(name).filter(|(_, model)| model.on_demand).map(|(name, _)| name);
    let Some(rules) = table.rules(wanted.name) else { return on_demand(wanted.name).into_iter().collect() };
    let marks = wanted.marks();
    let shares = rules.shares(table, wanted.version, &marks);
    let targets = rules.targets.iter().zip(&shares);
    match rules.assign(&shares, &marks) {
        Ok(Some((taken, _))) => {
            rules.targets.get(taken).and_then(|target| on_demand(&target.model)).into_iter().collect()
        }
        // Those that take a part of the calls, so that each can.
        _ => targets.filter(|(_, share)| share.weight > 0).filter_map(|(target, _)| on_demand(&target.model)).collect(),
    }
}

/// Asks for a model until it is dropped. A request that is cut off by that may have been heard or not: nobody waits any more.
async fn ask(way: Way, model: ModelName) {
    let mut backoff = Backoff::new(BACKOFF, AGAIN);
    loop {
        let wait = match once(&way, &model).await {
            Ok(()) => {
                backoff.reset();
                AGAIN
            }
            Err(error) => {
                tracing::warn!(%model, %error, "a model that calls wait for cannot be woken: trying again");
                backoff.next(rand::random())
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn once(way: &Way, model: &ModelName) -> Result<(), Status> {
    let deadline = Deadline::after(SystemClock::now(), LIMIT);
    let channel = way.peers.channel(SCHEDULER, &way.mesh.snapshot(), &way.tasks).map_err(|error| status_of(&error))?;
    let span = way.scope.start_client("weft.scheduler.v1.Scheduler/WakeModel", None);
    let request = WakeModelRequest { model: model.to_string(), passed_on: false };
    let request = outgoing(request, deadline, span.context()).map_err(|error| status_of(&error))?;
    within(deadline, SchedulerClient::new(channel).wake_model(request)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::{Semaphore, mpsc};
    use tonic::{Request, Response};
    use weft_client::Keys;
    use weft_proto::weft::scheduler::v1::scheduler_server::{Scheduler, SchedulerServer};
    use weft_proto::weft::scheduler::v1::{GetStatusRequest, GetStatusResponse, WakeModelResponse};
    use weft_proto::weft::state::v1::Leader;
    use weft_runtime::{Api, Health, Server, ServerOptions};
    use weft_store::{MemoryStore, Op, Store, Txn};

    use super::*;

    /// A scheduler that tells what it is asked for, and answers when it may.
    struct Asked {
        models: mpsc::Sender<String>,
        answers: Arc<Semaphore>,
    }

    #[tonic::async_trait]
    impl Scheduler for Asked {
        async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
            Err(Status::not_found("nothing is planted"))
        }

        async fn wake_model(&self, request: Request<WakeModelRequest>) -> Result<Response<WakeModelResponse>, Status> {
            self.models.send(request.into_inner().model).await.expect("the test listens");
            self.answers.acquire().await.expect("open").forget();
            Ok(Response::new(WakeModelResponse {}))
        }
    }

    /// The scheduler's side, and a router's.
    async fn stand(tasks: &Tasks) -> (mpsc::Receiver<String>, Arc<Semaphore>, Way) {
        let (models, asked) = mpsc::channel(8);
        let answers = Arc::new(Semaphore::new(0));
        let server = Server::bind(ServerOptions::default()).await.expect("a free port");
        let leader = Leader { id: "s1".to_owned(), address: server.address().to_string() };
        let scheduler = SchedulerServer::new(Asked { models, answers: Arc::clone(&answers) });
        server.serve(Api::new(&Health::default()).with(scheduler), Scope::disabled(), tasks).expect("descriptors");
        let (store, keys): (Arc<dyn Store>, _) = (Arc::new(MemoryStore::new(Arc::new(SystemClock))), Keys::new("t"));
        let put = Op::Put { key: keys.leader(), value: prost::Message::encode_to_vec(&leader).into(), lease: None };
        store.commit(Txn { compares: Vec::new(), ops: vec![put] }).await.expect("written");
        let mesh = Mesh::follow(store, &keys, tasks, None);
        mesh.synced().await;
        let way = Way { mesh, peers: Arc::default(), tasks: tasks.clone(), scope: Scope::disabled() };
        (asked, answers, way)
    }

    /// A thousand calls that wait for a model are one question, also when most of them have given up.
    #[tokio::test]
    async fn many_calls_ask_once() {
        let (tasks, wakes, ways) = (Tasks::new(), Wakes::default(), Cell::new(0));
        let (mut asked, answers, way) = stand(&tasks).await;
        let [one, other]: [ModelName; 2] = ["m", "n"].map(|name| name.parse().expect("a name"));
        let ask = |models: &[&ModelName]| {
            wakes.ask(models, || {
                ways.set(ways.get() + 1);
                way.clone()
            })
        };
        let mut calls: Vec<Vec<Arc<Asking>>> = (0..1000).map(|_| ask(&[&one])).collect();
        assert_eq!(ways.get(), 1, "so many tasks ask");
        assert!(calls.iter().all(|asking| Arc::ptr_eq(&asking[0], &calls[0][0])));
        assert_eq!(asked.recv().await.as_deref(), Some("m"));
        // Another model is asked for beside it; the first question is not answered yet, and is not put again.
        calls.truncate(1);
        calls.push(ask(&[&one, &other]));
        assert_eq!((asked.recv().await.as_deref(), ways.get()), (Some("n"), 2));
        // While a call waits it is asked again after the answer.
        calls.remove(0);
        answers.add_permits(1000);
        for _ in 0..2 {
            assert!(asked.recv().await.is_some_and(|model| model == "m" || model == "n"));
        }
        // When none does the question is over, and the next call asks anew.
        calls.clear();
        calls.push(ask(&[&one]));
        assert_eq!(ways.get(), 3);
    }

    #[tokio::test]
    async fn nobody_asks_for_nothing() {
        let way = || -> Way { panic!("somebody asks") };
        assert!(Wakes::default().ask(&[], way).is_empty());
    }
}
