//! What is measured: a mesh in a process of its own, called through its router or directly at its worker, and the bare model.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_tests::calls::Caller;
use weft_tests::process::Weft;

use super::bare::Bare;
use super::cell::{Cell, Target, Work};
use super::deadline::{self, Deadlines};
use super::load::{self, Case, Slice};

/// Linux counts a process's time in hundredths of a second, whatever its kernel's own tick.
const TICKS_PER_SECOND: u64 = 100;

/// Everything that answers.
pub(crate) struct Subject {
    mesh: Weft,
    router: Caller,
    worker: Caller,
    bare: Bare,
}

impl Subject {
    /// Starts a mesh as `weft dev` does, and waits until both ways to it answer.
    pub(crate) async fn start() -> Result<Self> {
        let mesh = Weft::start("dev", &["--router-http", "", "--metrics-http", "127.0.0.1:0"])?;
        let router = Caller::new(&mesh.address)?;
        let worker = router.first_worker().await?;
        for caller in [&router, &worker] {
            caller.wait_ready("identity").await?;
            caller.wait_ready("digits").await?;
        }
        Ok(Self { mesh, router, worker, bare: Bare::load().await? })
    }

    /// Measures how calls end that cannot be answered in time.
    pub(crate) async fn deadlines(&self, rounds: usize) -> Result<Deadlines> {
        let metrics = self.mesh.address_of("HTTP", "metrics").context("metrics are served over HTTP")?;
        deadline::measure(&self.router, &metrics, rounds).await
    }

    /// Measures a cell once.
    pub(crate) async fn measure(&self, cell: Cell, cases: &Arc<[Case]>, lasting: Duration) -> Result<Slice> {
        let caller = match (cell.target, cell.work) {
            (Target::Bare, Work::Digits(rows) | Work::Identity(rows)) => return self.bare.run(rows, lasting).await,
            (Target::Router, _) => &self.router,
            (Target::Worker, _) => &self.worker,
        };
        let before = self.cpu();
        let slice = load::run(caller, cases, cell.in_flight, lasting).await;
        let slice = slice.with_context(|| format!("{cell:?}; the mesh says:\n{}", self.mesh.log()))?;
        let cpu = self.cpu().zip(before).map(|(after, before)| after.saturating_sub(before));
        Ok(Slice { cpu, ..slice })
    }

    /// Processor time that the mesh has used so far, ended threads included; `None` where there is no `/proc`.
    fn cpu(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.mesh.id())).ok()?;
        // The second field is the name in parentheses and may hold spaces; user and system time are the 14th and the 15th.
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks =
            fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().ok()).sum::<Option<u64>>()?;
        Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }
}
