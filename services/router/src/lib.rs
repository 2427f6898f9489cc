//! The router: sends each call to a replica that can answer it in time, and never waits for the store or the scheduler.
//!
//! A unary call's path, in the order of the modules: `unary` takes its message in pieces, `identify` reads the head of the undecoded
//! message, `route` resolves the name to a model version (with `rollout` where one is under way), `admit` gives the call its turn, `choose` draws a replica from the current [`table`],
//! `dispatch` makes the attempts, whose ends are noted in `outlier` and judged by `eject`. On routes that ask for it, `cache` is looked into
//! first, and `hedge` makes attempts beside each other. Streams take the same path per message in `stream`. `shadow` sends copies beside it,
//! `wake` has models brought back that calls are held for,
//! `explain` tells where it would lead. `repository` and `forward` serve what is not inference, `relay` what nobody here knows.

mod admit;
mod cache;
mod choose;
mod dispatch;
mod eject;
mod endpoint;
mod explain;
mod forward;
mod gate;
mod grpc;
mod hedge;
mod identify;
mod latencies;
mod leading;
mod load;
mod metadata;
mod options;
mod outlier;
mod relay;
mod repository;
mod rollout;
mod room;
mod route;
mod rules;
mod shadow;
mod stream;
mod table;
mod unary;
mod wake;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};
use weft_client::Mesh;
use weft_policy::retry::Budget;
use weft_proto::raw::InferenceServer;
use weft_proto::weft::router::v1::router_server::RouterServer;
use weft_runtime::{Api, Health, LoadReports, Tasks};
use weft_telemetry::Scope;
use weft_types::{ModelName, SystemClock};

use cache::Answers;
use forward::Peers;
use load::Load;
pub use options::Options;
use outlier::Outliers;
use shadow::Shadows;
use table::{Connect, Table};
use wake::Wakes;

/// A running router. Clones share its state.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) mesh: Mesh,
    pub(crate) table: ArcSwap<Table>,
    /// Tells that a new table is in place, to calls that wait for a replica.
    pub(crate) swapped: watch::Sender<i64>,
    /// Calls that may wait for a replica at once.
    pub(crate) holds: Semaphore,
    /// What calls that wait for their turn take.
    pub(crate) room: Arc<room::Room>,
    /// Held for a few additions, never across an await.
    pub(crate) budget: Mutex<Budget>,
    /// Answers that are kept for equal calls, of the routes that ask for it.
    pub(crate) answers: Arc<Answers>,
    /// Copies of calls that are under way.
    pub(crate) shadows: Shadows,
    /// Who is sent nothing for a while, and why.
    pub(crate) outliers: Outliers,
    /// What is told upward of this router's load.
    pub(crate) load: Load,
    /// Schedulers and metrics services.
    pub(crate) peers: Arc<Peers>,
    /// Models that are woken because calls are held for them.
    pub(crate) wakes: Wakes,
    pub(crate) tasks: Tasks,
    pub(crate) scope: Scope,
    pub(crate) health: Health,
}

impl Router {
    /// Builds a router that follows the mesh.
    pub fn start(options: Options, mesh: Mesh, tasks: &Tasks, scope: Scope, health: Health) -> Self {
        let now = SystemClock::now();
        let answers = Arc::new(Answers::new(options.cache_bytes));
        let observed = Arc::clone(&answers);
        scope.metrics().observe_cache(move || observed.bytes());
        let inner = Arc::new(Inner {
            answers,
            holds: Semaphore::new(options.max_holds),
            room: Arc::new(room::Room::new(options.queue_limit, options.queue_bytes, options.target_wait)),
            budget: Mutex::new(Budget::new(options.retry_budget, now)),
            load: Load::new(now),
            outliers: Outliers::new(options.replica_ejection, options.worker_ejection),
            options,
            mesh,
            table: ArcSwap::default(),
            shadows: Shadows::default(),
            peers: Arc::default(),
            wakes: Wakes::default(),
            swapped: watch::Sender::new(0),
            tasks: tasks.clone(),
            scope,
            health,
        });
        let router = Self { inner };
        tasks.spawn("router table", router.clone().follow());
        tasks.spawn("router outlier detection", router.clone().detect());
        tasks.spawn("router health checks", router.clone().probe());
        router
    }

    /// Adds the router's services to a server.
    pub fn serve(&self, api: Api) -> Api {
        let unlimited = usize::MAX; // The server has refused longer messages by their prefix.
        let inference = InferenceServer::new(self.clone()).max_decoding_message_size(unlimited);
        let own = self.clone();
        let reports = LoadReports::server(move || own.inner.load.report(SystemClock::now()));
        let router = self.clone();
        let api = api
            .with(inference)
            .answer(unary::PATH, move |request| Box::pin(unary::answer(router.clone(), request)))
            .with(RouterServer::new(self.clone()))
            .with(reports);
        let api =
            forward::SERVICES.iter().fold(api, |api, target| api.forward(target.service, self.forwarder(*target)));
        api.otherwise(self.relay())
    }

    /// Rebuilds the table with every change of the mesh, and says when the router can serve.
    async fn follow(self) {
        let inner = &*self.inner;
        let finishing = inner.tasks.finishing();
        let mut changes = inner.mesh.changes();
        let mut told = BTreeSet::new();
        loop {
            // Asked first: a snapshot that is taken afterwards is at least as good.
            let known = inner.mesh.is_known();
            let snapshot = inner.mesh.snapshot();
            let connect = Connect {
                known,
                channel: &inner.options.channel,
                tasks: &inner.tasks,
                scope: &inner.scope,
                now: SystemClock::now(),
                zone: &inner.options.zone,
            };
            let table = Table::build(&snapshot, &inner.table.load(), &connect);
            inner.table.store(Arc::new(table));
            inner.swapped.send_replace(snapshot.revision);
            // A snapshot from this process's own disk is as good to serve from as one whose store has gone away since.
            if known {
                inner.health.set("", true);
                inner.health.set("inference.GRPCInferenceService", true);
                self.tell_models(&mut told);
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = finishing.cancelled() => return,
            }
        }
    }

    /// Health has a name per model, too: the first ones by name, up to the number that `List` can tell. `told` are those that
    /// have one.
    fn tell_models(&self, told: &mut BTreeSet<ModelName>) {
        let table = self.inner.table.load();
        let mut models: Vec<_> = table.models().collect();
        models.sort_unstable_by_key(|(name, _)| *name);
        models.truncate(self.inner.options.max_health_names);
        for gone in told.extract_if(.., |name| !models.iter().any(|(known, _)| *known == name)) {
            self.inner.health.remove(gone.as_str());
        }
        for (name, model) in models {
            self.inner.health.set(name.as_str(), model.is_ready());
            told.insert(name.clone());
        }
    }
}
