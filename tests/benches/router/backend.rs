//! A mesh whose services are processes of their own over a real etcd, as a deployment has them.

use anyhow::Result;
use weft_tests::calls::Caller;
use weft_tests::etcd::Etcd;
use weft_tests::process::Weft;

/// Everything that is not measured, and the router, which is.
pub(crate) struct Mesh {
    pub(crate) worker: Weft,
    pub(crate) router: Weft,
    metrics: Weft,
    _scheduler: Weft,
    etcd: Etcd,
}

impl Mesh {
    /// Starts one worker with the built-in models and waits until the router serves `identity`.
    ///
    /// The router has every feature that it has by default, traces and figures sent to a metrics service included.
    pub(crate) async fn start() -> Result<Self> {
        let etcd = Etcd::start().await?;
        let store = ["--etcd", &etcd.client_url];
        let metrics = Weft::start("metrics", &store)?;
        let scheduler = Weft::start("scheduler", &store)?;
        let worker = Weft::start("worker", &store)?;
        let endpoint = endpoint(&metrics);
        let router = Weft::start_single("router", &[&store[..], &["--otlp-endpoint", &endpoint]].concat())?;
        Caller::new(&router.address)?.wait_ready("identity").await?;
        Ok(Self { worker, router, metrics, _scheduler: scheduler, etcd })
    }

    /// Flags of one more router of this mesh.
    pub(crate) fn flags(&self) -> [String; 4] {
        ["--etcd".to_owned(), self.etcd.client_url.clone(), "--otlp-endpoint".to_owned(), endpoint(&self.metrics)]
    }
}

fn endpoint(metrics: &Weft) -> String {
    format!("http://{}", metrics.address)
}
