//! A whole mesh in the test's own process, on free ports.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use weft::dev::Dev;
use weft::process::Process;
use weft::settings;
use weft_config::Reader;

use crate::calls::Caller;
use crate::http;

static PANICKED: AtomicBool = AtomicBool::new(false);

/// Notes every panic of this process, but for those that tests plant.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_planted = panic.payload_as_str().is_some_and(|text| text.contains("planted"));
            PANICKED.fetch_or(!is_planted, Ordering::SeqCst);
            before(panic);
        }));
    });
}

/// All four services over the embedded store.
pub struct Mesh {
    /// Its shared parts.
    pub process: Process,
    dev: Dev,
}

impl Mesh {
    /// Starts a mesh with these flags of `weft demo`.
    pub async fn start(flags: &[&str]) -> Result<Self> {
        watch_panics();
        let flags = ["--metrics-http", "127.0.0.1:0", "--lame-duck", "0ms"].iter().chain(flags).map(Into::into);
        let mut reader = Reader::new("weft demo", "", flags, []);
        let common = settings::common(&mut reader, "warn");
        let settings = settings::demo(&mut reader);
        reader.finish()?;
        let process = Process::embed(common).await?;
        let dev = Dev::start(&process, settings).await?;
        Ok(Self { process, dev })
    }

    /// Where callers reach it.
    pub fn address(&self) -> &str {
        self.dev.address()
    }

    /// The text that Prometheus would scrape.
    pub async fn scrape(&self) -> Result<String> {
        let address = self.dev.metrics_http().context("metrics are served over HTTP")?;
        http::get(&address.to_string(), "/metrics").await
    }

    /// A sample's value, summed over all its label sets.
    pub async fn sample(&self, name: &str) -> Result<f64> {
        let text = self.scrape().await?;
        let samples =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// A caller of it.
    pub fn caller(&self) -> Result<Caller> {
        Caller::new(self.address())
    }

    /// Drains it and ends its tasks. A panic anywhere in it is an error: a task that panics is otherwise only a line in the
    /// log.
    pub async fn stop(self) -> Result<()> {
        self.dev.drain().await;
        self.process.finish().await;
        ensure!(!PANICKED.load(Ordering::SeqCst), "something in this process panicked: see its output");
        Ok(())
    }
}
