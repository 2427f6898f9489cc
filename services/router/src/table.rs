//! The mesh as the router needs it: ready replicas by model and version. Built anew with every snapshot, never changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_client::{Channel, ChannelOptions, Record, ReplicaKey, Snapshot};
use weft_proto::weft::control::v1::{Rollout, Route};
use weft_proto::weft::state::v1::{self as state, FailureKind, ModelOffer, ReplicaState, Worker};
use weft_runtime::Tasks;
use weft_telemetry::{ModelMetrics, Scope};
use weft_types::{ModelName, Version, WorkerId};

use crate::endpoint::{Endpoint, Pace, Permit};
use crate::gate::Gate;
use crate::latencies::Learned;
use crate::rollout::Staged;
use crate::rules::{Marks, Rules};

/// A ready replica.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) endpoint: Arc<Endpoint>,
    /// What calls to it take. Each model and version has its own: they differ by far more than workers do.
    pub(crate) pace: Arc<Pace>,
    /// Its worker is shutting down: it serves, but others are better.
    pub(crate) draining: bool,
    /// Its worker stands in the router's own zone.
    pub(crate) local: bool,
}

impl Replica {
    /// Counts a call to it from now on.
    pub(crate) fn enter(&self) -> Permit {
        self.endpoint.enter(&self.pace)
    }

    /// Whether its worker leaves calls without an answer at the moment, and does not even answer a ping.
    pub(crate) fn is_silent(&self) -> bool {
        self.endpoint.channel.is_silent() || self.endpoint.streams.is_silent()
    }

    /// Whether it, or its worker with all its replicas, is ejected.
    pub(crate) fn is_ejected(&self) -> bool {
        self.pace.record.is_ejected() || self.endpoint.record.is_ejected()
    }
}

/// A worker, as all of its replicas share it.
pub(crate) struct Host {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) draining: bool,
    /// Where it stands; empty when it does not say.
    pub(crate) zone: String,
}

/// What is known of a model.
#[derive(Default)]
pub(crate) struct Model {
    /// Ready replicas by version; every listed version has at least one.
    pub(crate) ready: BTreeMap<Version, Ready>,
    /// Versions that are being loaded, were placed, or could be.
    pub(crate) coming: BTreeMap<Version, Coming>,
    /// Demand decides how many replicas it has: a call that is held for it brings it back.
    pub(crate) on_demand: bool,
    /// It was asked for with no replicas at all.
    pub(crate) unloaded: bool,
    /// It was asked for, so somebody sees to it that it comes, even if no worker offers it at the moment.
    pub(crate) applied: bool,
    /// When the last worker that offered it went.
    pub(crate) gone: Option<Instant>,
    /// Its rollout, under way or ended.
    pub(crate) staged: Option<Arc<Staged>>,
}

/// How long a model is remembered that no worker offers any more: its workers may be restarting, and callers must not be told
/// that there is no such model.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The replicas of a version that are ready.
pub(crate) struct Ready {
    pub(crate) replicas: Vec<Replica>,
    /// Instruments of this version, made once and not per call.
    pub(crate) metrics: ModelMetrics,
    /// What calls to it take, as far as routes hedge them.
    pub(crate) latencies: Arc<Learned>,
    /// The store's revision at which a replica was last said to be ready: another one after each load, also of the same version.
    pub(crate) loaded: i64,
    /// Who may call them now, and who waits.
    pub(crate) gate: Arc<Gate>,
}

/// Why a version is not ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Coming {
    /// A worker was told to load it, or is loading it.
    pub(crate) placed: bool,
    /// Why the last load failed, if it did.
    pub(crate) failure: Option<String>,
    /// Workers that offer it and are not shutting down, and those of them that could not load it.
    offering: usize,
    failed: usize,
    /// Since when it has failed somewhere and been placed nowhere else.
    stuck: Option<Instant>,
}

/// A load that failed may be tried again by its worker, or by another one, which takes the scheduler a moment to decide.
const TRIED_AGAIN: Duration = Duration::from_secs(5);

impl Coming {
    /// Why it is not worth waiting for: it could be loaded nowhere that offers it, or nobody has tried again for a while.
    pub(crate) fn given_up(&self, now: Instant) -> Option<&str> {
        let stuck = self.stuck.is_some_and(|since| now.saturating_duration_since(since) >= TRIED_AGAIN);
        let is_over = !self.placed && (stuck || self.failed >= self.offering);
        self.failure.as_deref().filter(|_| is_over)
    }
}

impl Model {
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether it may come, though nothing in the mesh shows it now.
    pub(crate) fn may_return(&self, now: Instant) -> bool {
        self.applied || self.gone.is_some_and(|gone| now.saturating_duration_since(gone) < REMEMBERED)
    }

    /// The version for a call that names none, where a rollout says.
    pub(crate) fn drawn(&self, marks: &Marks<'_>) -> Option<Version> {
        self.staged.as_ref().map(|staged| staged.draw(self, marks))
    }

    /// The ready replicas of a version, or of the one that answers: by its rollout, else the latest that has any.
    pub(crate) fn ready(&self, version: Option<Version>) -> Option<(Version, &Ready)> {
        match version.or_else(|| self.staged.as_ref().map(|staged| staged.answers())) {
            Some(version) => self.ready.get_key_value(&version),
            None => self.ready.last_key_value(),
        }
        .map(|(version, ready)| (*version, ready))
    }
}

/// What a table's endpoints are made with.
pub(crate) struct Connect<'a> {
    pub(crate) channel: &'a ChannelOptions,
    pub(crate) tasks: &'a Tasks,
    pub(crate) scope: &'a Scope,
    pub(crate) now: Instant,
    /// Where this router stands; empty when that is not known.
    pub(crate) zone: &'a str,
    /// Whether the snapshot is of anything: listed from the store, or found on disk.
    pub(crate) known: bool,
}

/// The router's view of the mesh at one revision.
#[derive(Default)]
pub(crate) struct Table {
    models: HashMap<ModelName, Model>,
    routes: HashMap<ModelName, Arc<Rules>>,
    /// False at first: that nothing is in it then says nothing.
    pub(crate) known: bool,
    /// Whether any rollout has a shadow: only then is a call looked at for it.
    pub(crate) shadowing: bool,
    pub(crate) hosts: BTreeMap<WorkerId, Host>,
}

impl Table {
    /// Builds the table of a snapshot. Workers that kept their address keep their connections and counts.
    pub(crate) fn build(snapshot: &Snapshot, old: &Self, connect: &Connect<'_>) -> Self {
        let of_worker = |(id, record): (&WorkerId, &Arc<Record<Worker>>)| {
            let endpoint = endpoint(id, &record.value, old, connect)?;
            let (draining, zone) = (record.value.draining, record.value.zone.clone());
            Some((id.clone(), Host { endpoint, draining, zone }))
        };
        let of_route = |(name, record): (&ModelName, &Arc<Record<Route>>)| {
            let kept = old.routes.get(name).filter(|rules| rules.are_of(record));
            (name.clone(), kept.map_or_else(|| Arc::new(Rules::of(name, record, connect.scope)), Arc::clone))
        };
        let mut table = Self {
            hosts: snapshot.workers.iter().filter_map(of_worker).collect(),
            routes: snapshot.routes.iter().map(of_route).collect(),
            known: connect.known,
            ..Self::default()
        };
        for (id, record) in snapshot.workers.iter() {
            if table.hosts.contains_key(id) {
                table.offer(record.value.offers.iter(), !record.value.draining);
            }
        }
        table.place(snapshot);
        table.hold(snapshot, old, connect);
        table.wait(old, connect.now);
        for (name, record) in snapshot.models.iter() {
            let model = table.models.entry(name.clone()).or_default();
            model.on_demand = record.value.autoscaling.is_some();
            model.applied = model.on_demand || record.value.replicas > 0;
            model.unloaded = !model.applied;
        }
        table.stage(snapshot, old, connect);
        table.remember(old, connect.now);
        table
    }

    /// What rollouts say of the models that are there.
    fn stage(&mut self, snapshot: &Snapshot, old: &Self, connect: &Connect<'_>) {
        for (name, record) in snapshot.rollouts.iter() {
            let Some(model) = self.models.get_mut(name) else { continue };
            model.staged = old.staged(name, record).or_else(|| Staged::of(name, record, connect.scope).map(Arc::new));
            self.shadowing |= model.staged.as_ref().is_some_and(|staged| staged.shadow.is_some());
        }
    }

    /// What is known of this very record.
    fn staged(&self, name: &ModelName, record: &Arc<Record<Rollout>>) -> Option<Arc<Staged>> {
        self.models.get(name)?.staged.clone().filter(|staged| staged.is_of(record))
    }

    /// Keeps the names of models that have just lost their last worker.
    fn remember(&mut self, old: &Self, now: Instant) {
        for (name, model) in &old.models {
            let gone = model.gone.unwrap_or(now);
            let was_there = model.gone.is_some() || !(model.ready.is_empty() && model.coming.is_empty());
            if was_there && !self.models.contains_key(name) && now.saturating_duration_since(gone) < REMEMBERED {
                self.models.insert(name.clone(), Model { gone: Some(gone), ..Model::default() });
            }
        }
    }

    /// Takes note of what one worker offers, and whether it could take more.
    fn offer<'a>(&mut self, offers: impl Iterator<Item = &'a ModelOffer>, takes: bool) {
        for offer in offers {
            // Most workers offer what the others do: a name is checked and kept once.
            let model = match self.models.get_mut(offer.name.as_str()) {
                Some(model) => model,
                None => match offer.name.parse::<ModelName>() {
                    Ok(name) => self.models.entry(name).or_default(),
                    Err(_) => continue,
                },
            };
            for version in offer.versions.iter().filter_map(|offered| Version::new(offered.version)) {
                model.coming.entry(version).or_default().offering += usize::from(takes);
            }
        }
    }

    /// Since when versions have failed without another attempt.
    fn wait(&mut self, old: &Self, now: Instant) {
        for (name, model) in &mut self.models {
            let before = old.models.get(name);
            for (version, coming) in model.coming.iter_mut().filter(|(_, coming)| coming.failure.is_some()) {
                let since = before.and_then(|before| before.coming.get(version)?.stuck).unwrap_or(now);
                coming.stuck = Some(since).filter(|_| !coming.placed);
            }
        }
    }

    /// What workers were told to hold. A placement that its worker has failed to load is not something to wait for, but one whose process
    /// was lost is.
    fn place(&mut self, snapshot: &Snapshot) {
        let is_failed = |record: &Record<state::Replica>| {
            record.value.state() == ReplicaState::Failed && record.value.failure() != FailureKind::Lost
        };
        let failed: HashSet<&ReplicaKey> =
            snapshot.replicas.iter().filter(|(_, record)| is_failed(record)).map(|(key, _)| key).collect();
        let mut workers = InOrder::of(&snapshot.workers);
        for key in snapshot.placements.keys().filter(|key| !failed.contains(*key)) {
            if workers.find(&key.worker).is_some() {
                self.known(&key.model).coming.entry(key.version).or_default().placed = true;
            }
        }
    }

    /// What workers say that they hold.
    fn hold(&mut self, snapshot: &Snapshot, old: &Self, connect: &Connect<'_>) {
        let hosts = std::mem::take(&mut self.hosts);
        let mut workers = InOrder::of(&hosts);
        for (key, record) in snapshot.replicas.iter() {
            let Some(host) = workers.find(&key.worker) else { continue };
            let model = self.known(&key.model);
            match record.value.state() {
                ReplicaState::Ready => {
                    let ready = model.ready.entry(key.version).or_insert_with(|| ready_of(key, old, connect));
                    ready.loaded = ready.loaded.max(record.mod_revision);
                    let (endpoint, draining) = (Arc::clone(&host.endpoint), host.draining);
                    let pace = old.pace(key, &endpoint).unwrap_or_else(|| Arc::new(Pace::new(connect.now)));
                    let local = !connect.zone.is_empty() && connect.zone == host.zone;
                    ready.replicas.push(Replica { endpoint, pace, draining, local });
                }
                ReplicaState::Failed => {
                    let coming = model.coming.entry(key.version).or_default();
                    coming.failure = Some(record.value.reason.clone());
                    coming.failed += usize::from(!host.draining && record.value.failure() != FailureKind::Lost);
                }
                ReplicaState::Loading => model.coming.entry(key.version).or_default().placed = true,
                ReplicaState::Draining | ReplicaState::Unspecified => {}
            }
        }
        self.hosts = hosts;
        for ready in self.models.values().flat_map(|model| model.ready.values()) {
            ready.gate.resize(ready.replicas.len(), connect.now);
        }
    }

    /// What calls to a replica took so far, while its worker is the same.
    fn pace(&self, key: &ReplicaKey, endpoint: &Arc<Endpoint>) -> Option<Arc<Pace>> {
        let replicas = &self.models.get(&key.model)?.ready.get(&key.version)?.replicas;
        // They are in the order of their workers' names, as their records are.
        let at = replicas.binary_search_by(|replica| replica.endpoint.worker.cmp(&key.worker)).ok()?;
        let known = replicas.get(at).filter(|replica| Arc::ptr_eq(&replica.endpoint, endpoint))?;
        Some(Arc::clone(&known.pace))
    }

    /// What calls to a version took so far.
    fn latencies(&self, key: &ReplicaKey, now: Instant) -> Arc<Learned> {
        let known = self.models.get(&key.model).and_then(|model| model.ready.get(&key.version));
        known.map_or_else(|| Arc::new(Learned::new(now)), |ready| Arc::clone(&ready.latencies))
    }

    fn known(&mut self, name: &ModelName) -> &mut Model {
        self.models.entry(name.clone()).or_default()
    }

    pub(crate) fn model(&self, name: &str) -> Option<&Model> {
        self.models.get(name)
    }

    /// A model with its name as it is kept here.
    pub(crate) fn named(&self, name: &str) -> Option<(&ModelName, &Model)> {
        self.models.get_key_value(name)
    }

    pub(crate) fn models(&self) -> impl Iterator<Item = (&ModelName, &Model)> {
        self.models.iter()
    }

    pub(crate) fn rules(&self, name: &str) -> Option<&Rules> {
        self.routes.get(name).map(Arc::as_ref)
    }

    /// The rules of a route whose calls are not just sent.
    pub(crate) fn rules_beyond(&self, name: &str) -> Option<Arc<Rules>> {
        self.routes.get(name).filter(|rules| rules.hedging.is_some() || rules.cache.is_some()).cloned()
    }
}

/// The worker's endpoint: the old one, with its connections and counts, for as long as it is the same life at the same address.
fn endpoint(id: &WorkerId, worker: &Worker, old: &Table, connect: &Connect<'_>) -> Option<Arc<Endpoint>> {
    let known = old.hosts.get(id).map(|host| &host.endpoint);
    let same =
        |endpoint: &&Arc<Endpoint>| endpoint.epoch == worker.epoch && endpoint.channel.address() == worker.address;
    if let Some(endpoint) = known.filter(same) {
        return Some(Arc::clone(endpoint));
    }
    let open = || Channel::new(&worker.address, connect.channel.clone(), connect.tasks);
    match (open(), open()) {
        (Ok(channel), Ok(streams)) => Some(Endpoint::new(id.clone(), worker.epoch, channel, streams)),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(worker = %id, %error, "a worker's address cannot be used");
            None
        }
    }
}

/// A version without replicas yet. Its calls are counted on while it stays ready.
fn ready_of(key: &ReplicaKey, old: &Table, connect: &Connect<'_>) -> Ready {
    let known = old.models.get(&key.model).and_then(|model| model.ready.get(&key.version));
    let metrics = connect.scope.metrics();
    let gate = || Arc::new(Gate::new(metrics.admission(&key.model, key.version), connect.now));
    Ready {
        replicas: Vec::new(),
        metrics: metrics.model(&key.model, key.version),
        gate: known.map_or_else(gate, |known| Arc::clone(&known.gate)),
        latencies: old.latencies(key, connect.now),
        loaded: 0,
    }
}

/// Looks workers up that are asked for in their order, one step at a time: with tens of thousands of replicas, a search for
/// each is most of the work.
struct InOrder<I: Iterator> {
    rest: std::iter::Peekable<I>,
}

impl<'a, V: 'a, I: Iterator<Item = (&'a WorkerId, &'a V)>> InOrder<I> {
    fn of(workers: impl IntoIterator<IntoIter = I>) -> Self {
        Self { rest: workers.into_iter().peekable() }
    }

    /// What is known of a worker that does not come before the one last asked for.
    fn find(&mut self, wanted: &WorkerId) -> Option<&'a V> {
        while self.rest.next_if(|(id, _)| *id < wanted).is_some() {}
        self.rest.peek().filter(|(id, _)| *id == wanted).map(|(_, found)| *found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record<T>(value: T) -> Arc<Record<T>> {
        Arc::new(Record { value, create_revision: 1, mod_revision: 1 })
    }

    fn key(worker: usize, model: usize) -> ReplicaKey {
        let model = format!("m{model}").parse().expect("a name");
        ReplicaKey { worker: id(worker), model, version: Version::new(1).expect("not zero") }
    }

    fn id(worker: usize) -> WorkerId {
        format!("w{worker}").parse().expect("a name")
    }

    fn states() -> impl Strategy<Value = ReplicaState> {
        prop::sample::select(vec![
            ReplicaState::Ready,
            ReplicaState::Loading,
            ReplicaState::Failed,
            ReplicaState::Draining,
        ])
    }

    proptest! {
        /// The table holds what a search for each record finds, whichever workers, placements and replicas there are.
        #[test]
        fn agrees_with_a_search(
            workers in prop::collection::btree_map(0usize..12, any::<bool>(), 0..12),
            placed in prop::collection::btree_set((0usize..12, 0usize..3), 0..30),
            held in prop::collection::btree_map((0usize..12, 0usize..3), states(), 0..30),
        ) {
            let mut snapshot = Snapshot::default();
            for (number, usable) in &workers {
                let address = if *usable { "127.0.0.1:1" } else { "no address" }.to_owned();
                snapshot.workers.insert(id(*number), record(Worker { address, ..Worker::default() }));
            }
            for (worker, model) in &placed {
                snapshot.placements.insert(key(*worker, *model), record(state::Placement::default()));
            }
            for ((worker, model), state) in &held {
                let replica = state::Replica { state: (*state).into(), ..state::Replica::default() };
                snapshot.replicas.insert(key(*worker, *model), record(replica));
            }
            let (tasks, scope) = (Tasks::new(), Scope::disabled());
            let now = weft_types::SystemClock::now();
            let connect = Connect { channel: &ChannelOptions::default(), tasks: &tasks, scope: &scope, now, zone: "", known: true };
            let table = Table::build(&snapshot, &Table::default(), &connect);
            for model in 0..3 {
                let on = |worker: &usize, state| held.get(&(*worker, model)) == Some(&state);
                let usable = |worker: &usize| workers.get(worker) == Some(&true);
                let ready: Vec<WorkerId> =
                    (0..12).filter(|worker| usable(worker) && on(worker, ReplicaState::Ready)).map(id).collect();
                let coming = (0..12).any(|worker| {
                    let told = workers.contains_key(&worker) && placed.contains(&(worker, model));
                    (told && !on(&worker, ReplicaState::Failed)) || (usable(&worker) && on(&worker, ReplicaState::Loading))
                });
                let found = table.model(&format!("m{model}"));
                let mut found_ready: Vec<WorkerId> = found.and_then(|found| found.ready(None)).map_or_else(Vec::new, |(_, ready)| {
                    ready.replicas.iter().map(|replica| replica.endpoint.worker.clone()).collect()
                });
                let mut ready = ready;
                ready.sort();
                found_ready.sort();
                prop_assert_eq!(found_ready, ready);
                let placed = found.is_some_and(|found| found.coming.values().any(|coming| coming.placed));
                prop_assert_eq!(placed, coming);
            }
        }
    }

    /// What calls to a replica took is kept while its worker lives, whatever else comes and goes.
    #[test]
    fn what_calls_took_outlives_changes() {
        let (tasks, scope, now) = (Tasks::new(), Scope::disabled(), weft_types::SystemClock::now());
        let connect =
            Connect { channel: &ChannelOptions::default(), tasks: &tasks, scope: &scope, now, zone: "", known: true };
        let mut snapshot = Snapshot::default();
        let add = |snapshot: &mut Snapshot, number: usize, epoch: u64| {
            let worker = Worker { address: "127.0.0.1:1".to_owned(), epoch, ..Worker::default() };
            snapshot.workers.insert(id(number), record(worker));
            let replica = state::Replica { state: ReplicaState::Ready.into(), ..state::Replica::default() };
            snapshot.replicas.insert(key(number, 0), record(replica));
        };
        let paces = |table: &Table| -> BTreeMap<WorkerId, Arc<Pace>> {
            let ready = table.model("m0").and_then(|model| model.ready(None)).expect("it is ready").1;
            ready.replicas.iter().map(|one| (one.endpoint.worker.clone(), Arc::clone(&one.pace))).collect()
        };
        (1..4).for_each(|number| add(&mut snapshot, number, 1));
        let before = Table::build(&snapshot, &Table::default(), &connect);
        add(&mut snapshot, 0, 1);
        add(&mut snapshot, 2, 2);
        let after = Table::build(&snapshot, &before, &connect);
        let (before, after) = (paces(&before), paces(&after));
        let is_kept = |number: usize| Arc::ptr_eq(&before[&id(number)], &after[&id(number)]);
        assert_eq!((after.len(), is_kept(1), is_kept(2), is_kept(3)), (4, true, false, true));
    }

    #[test]
    fn a_model_whose_last_worker_went_is_remembered_for_a_while() {
        let (tasks, scope, now) = (Tasks::new(), Scope::disabled(), weft_types::SystemClock::now());
        let channel = ChannelOptions::default();
        let at = |seconds| Connect {
            channel: &channel,
            tasks: &tasks,
            scope: &scope,
            now: now + Duration::from_secs(seconds),
            zone: "",
            known: true,
        };
        let mut snapshot = Snapshot::default();
        let offer = ModelOffer {
            name: "m0".to_owned(),
            versions: vec![state::VersionOffer { version: 1, size_bytes: 1, ..state::VersionOffer::default() }],
            ..ModelOffer::default()
        };
        let worker = Worker { address: "127.0.0.1:1".to_owned(), offers: vec![offer], ..Worker::default() };
        snapshot.workers.insert(id(0), record(worker));
        let there = Table::build(&snapshot, &Table::default(), &at(0));
        let empty = Snapshot::default();
        let gone = Table::build(&empty, &there, &at(1));
        let gone = Table::build(&empty, &gone, &at(2));
        let model = gone.model("m0").expect("remembered");
        assert!(model.may_return(now + Duration::from_secs(60)) && !model.may_return(now + Duration::from_secs(61)));
        assert!(Table::build(&empty, &gone, &at(61)).model("m0").is_none());
        let back = Table::build(&snapshot, &gone, &at(3));
        assert!(back.model("m0").is_some_and(|model| model.gone.is_none()));
    }
}
