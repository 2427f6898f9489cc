//! What an observer sees of a fleet at rest.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use prost::Message as _;
use weft_client::{Keys, Mesh};
use weft_proto::weft::control::v1::{Route, RouteTarget};
use weft_store::{Change, Commit, Op, Range, Store, Txn};
use weft_tests::etcd::Etcd;
use weft_tests::http;
use weft_types::SystemClock;

/// How often the probe writes a record and renews a lease.
const PROBE: Duration = Duration::from_millis(100);

/// What was seen.
pub(super) struct Watched {
    /// Workers whose record vanished, though all were alive.
    pub(super) evictions: u64,
    /// What etcd committed besides the probe's own writes.
    pub(super) other_commits_per_second: f64,
    pub(super) probe_writes_per_second: f64,
    /// From a write's begin to the snapshot that shows it, in order.
    pub(super) updates: Vec<Duration>,
    renewals: Vec<Duration>,
    pub(super) etcd_mib: f64,
}

impl Watched {
    pub(super) async fn run(
        store: &Arc<dyn Store>,
        etcd: &Etcd,
        mesh: &Mesh,
        keys: &Keys,
        lasting: Duration,
    ) -> Result<Self> {
        let from = mesh.snapshot().revision + 1;
        let mut watch = store.watch(Range::Prefix(keys.root().to_owned()), from).await?;
        let lease = store.grant(Duration::from_secs(60)).await?;
        let (commits, started) = (commits(etcd).await?, SystemClock::now());
        let (mut updates, mut renewals) = (Vec::new(), Vec::new());
        let mut ticks = tokio::time::interval(PROBE);
        while SystemClock::now().saturating_duration_since(started) < lasting {
            ticks.tick().await;
            updates.push(update(&**store, mesh, keys).await?);
            let sent = SystemClock::now();
            store.keep_alive(lease).await?;
            renewals.push(SystemClock::now().saturating_duration_since(sent));
        }
        let elapsed = SystemClock::now().saturating_duration_since(started).as_secs_f64();
        let other = self::commits(etcd).await? - commits - updates.len() as f64;
        let etcd_mib = sample(etcd, "process_resident_memory_bytes").await? / f64::from(1 << 20);
        store.revoke(lease).await?;

        let until = mesh.snapshot().revision;
        let (mut evictions, mut seen) = (0, from - 1);
        while seen < until {
            let told = watch.next().await.context("the watch runs")??;
            seen = told.revision;
            let gone = |change: &&Change| matches!(change, Change::Delete { key, .. } if key.starts_with(&format!("{}workers/", keys.root())));
            evictions += told.changes.iter().filter(gone).count() as u64;
        }
        updates.sort_unstable();
        renewals.sort_unstable();
        Ok(Self {
            evictions,
            other_commits_per_second: other / elapsed,
            probe_writes_per_second: updates.len() as f64 / elapsed,
            updates,
            renewals,
            etcd_mib,
        })
    }

    /// The time that so many percent of the updates did not exceed.
    pub(super) fn update_ms(&self, percent: usize) -> f64 {
        percentile_ms(&self.updates, percent)
    }

    /// As [`Self::update_ms`], of a lease's renewal.
    pub(super) fn renewal_ms(&self, percent: usize) -> f64 {
        percentile_ms(&self.renewals, percent)
    }
}

/// Writes a record and waits until the snapshot shows it.
async fn update(store: &dyn Store, mesh: &Mesh, keys: &Keys) -> Result<Duration> {
    let target = RouteTarget { model: "identity".to_owned(), weight: 1, ..Default::default() };
    let route = Route { name: "probe".to_owned(), targets: vec![target], ..Default::default() };
    let put = Op::Put { key: keys.route(&"probe".parse()?), value: route.encode_to_vec().into(), lease: None };
    let mut changes = mesh.changes();
    let sent = SystemClock::now();
    let committed = store.commit(Txn { compares: Vec::new(), ops: vec![put] }).await?;
    let Commit::Done(revision) = committed else { anyhow::bail!("a write without conditions was lost") };
    changes.wait_for(|_| mesh.snapshot().revision >= revision).await?;
    Ok(SystemClock::now().saturating_duration_since(sent))
}

/// Proposals that etcd has committed: writes of records, leases and everything else that costs its log.
async fn commits(etcd: &Etcd) -> Result<f64> {
    sample(etcd, "etcd_server_proposals_committed_total").await
}

async fn sample(etcd: &Etcd, name: &str) -> Result<f64> {
    let address = etcd.client_url.trim_start_matches("http://");
    let text = http::get(address, "/metrics").await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with(' ')));
    let value = line.with_context(|| format!("etcd tells no {name}"))?.trim().parse::<f64>()?;
    ensure!(value.is_finite(), "{name} is {value}");
    Ok(value)
}

fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
