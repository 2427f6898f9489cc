//! A worker that can be cut off and killed, with a model that is on no other.

use anyhow::{Result, ensure};
use tempfile::TempDir;
use weft_proto::inference::ModelStatisticsRequest;

use super::inner::{self, HELD};
use super::shape::ITEMS;
use super::{Point, Work};
use crate::calls::{Caller, raw, until};
use crate::chaos::Schedulers;
use crate::ledger::messages::FaultKind;
use crate::port::Port;
use crate::process::Weft;
use crate::proxy::{Fault, Proxy};

pub(super) struct Held {
    worker: Weft,
    port: Port,
    proxy: Proxy,
    folder: TempDir,
    is_cut_off: Option<Fault>,
}

impl Held {
    /// Starts it, and has the router connected to it.
    pub(super) async fn start(schedulers: &Schedulers, router: &Caller) -> Result<Self> {
        let (port, folder) = (Port::reserve()?, tempfile::tempdir()?);
        inner::repository(folder.path(), HELD)?;
        let proxy = Proxy::start(&port.address().to_string()).await?;
        let worker = launch(schedulers, &port, &proxy, &folder)?;
        router.wait_ready(HELD).await?;
        let request = || raw(HELD, ("INPUT", "UINT8"), &[1], vec![1]);
        until("a model that answers", async || router.inference().model_infer(request()).await.is_ok()).await?;
        Ok(Self { worker, port, proxy, folder, is_cut_off: None })
    }

    /// Nothing comes to it, or nothing comes from it, if that is what goes wrong at these points.
    pub(super) fn cut_off(&mut self, points: &[Point]) -> Result<()> {
        let cut = |kind| points.iter().any(|point| point.spot.work == Work::Model && point.kind == kind);
        self.is_cut_off = match (cut(FaultKind::HoldBefore), cut(FaultKind::HoldAfter)) {
            (true, false) => Some(Fault::BlackHole),
            (false, true) => Some(Fault::HalfOpen),
            (before, _) => {
                ensure!(!before, "a worker is cut off in one way at once");
                None
            }
        };
        self.proxy.set(self.is_cut_off.unwrap_or_default());
        Ok(())
    }

    pub(super) fn connect(&self) {
        self.proxy.set(Fault::None);
    }

    /// Executions of its model that have ended.
    pub(super) async fn executed(&self) -> Result<u64> {
        let request = ModelStatisticsRequest { name: HELD.to_owned(), version: String::new() };
        let answer = Caller::new(&self.worker.address)?.inference().model_statistics(request).await?.into_inner();
        Ok(answer.model_stats.iter().map(|told| told.inference_count).sum())
    }

    /// Waits until every point's model has been executed, where only answers are cut off.
    pub(super) async fn until_executed(&self, before: u64, points: impl Iterator<Item = &Point>) -> Result<()> {
        if self.is_cut_off != Some(Fault::HalfOpen) {
            return Ok(());
        }
        let models = points.filter(|point| point.spot.work == Work::Model);
        let count: u64 = models.map(|point| if point.spot.item.is_some() { u64::from(ITEMS) } else { 1 }).sum();
        until("models to be executed", async || self.executed().await.is_ok_and(|now| now >= before + count)).await
    }

    /// Kills it and starts it again.
    pub(super) fn crash(&mut self, schedulers: &Schedulers) -> Result<()> {
        self.worker.kill()?;
        self.connect();
        self.worker = launch(schedulers, &self.port, &self.proxy, &self.folder)?;
        Ok(())
    }
}

fn launch(schedulers: &Schedulers, port: &Port, proxy: &Proxy, folder: &TempDir) -> Result<Weft> {
    let (models, advertised) = (folder.path().display().to_string(), proxy.address().to_string());
    let own = ["--slots", "none=1", "--models", &models, "--advertise", &advertised];
    schedulers.launch_at(&port.address().to_string(), "worker", 1, &own)
}
