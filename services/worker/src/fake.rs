//! An engine that a test drives by hand.

use std::sync::Arc;
pub(crate) mod language;
mod store;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use weft_engine::{Batch, DataType, Engine, Error, Hold, Inputs, Model, Outputs, Port, Signature, Spec, Tensor};

pub(crate) use world::World;

/// One execution, in the test's hands until it answers; its caller may be gone by then.
pub(crate) struct Execution {
    pub(crate) batch: Vec<Inputs>,
    answer: oneshot::Sender<What>,
    /// While the test holds it, it computes.
    _hold: Hold,
}

enum What {
    Echo,
    Answer(Vec<Outputs>),
    Fail,
    Refuse,
    Panic,
    Lose,
}

impl Execution {
    /// The first byte of each request.
    pub(crate) fn marks(&self) -> Vec<u8> {
        self.batch.iter().map(|inputs| inputs[0].data[0]).collect()
    }

    pub(crate) fn echo(self) {
        let _ = self.answer.send(What::Echo);
    }

    /// Answers each request with what is made of it.
    pub(crate) fn answer(self, make: impl Fn(&Inputs) -> Outputs) {
        let _ = self.answer.send(What::Answer(self.batch.iter().map(make).collect()));
    }

    pub(crate) fn fail(self) {
        let _ = self.answer.send(What::Fail);
    }

    /// Each request fails on its own.
    pub(crate) fn refuse(self) {
        let _ = self.answer.send(What::Refuse);
    }

    /// Answers as an engine does whose process has ended.
    pub(crate) fn lose(self) {
        let _ = self.answer.send(What::Lose);
    }

    pub(crate) fn panic(self) {
        let _ = self.answer.send(What::Panic);
    }

    /// Waits until the execution has been dropped.
    pub(crate) async fn dropped(mut self) {
        self.left().await;
    }

    /// Waits until the execution has been dropped, and goes on computing.
    pub(crate) async fn left(&mut self) {
        self.answer.closed().await;
    }
}

/// The test's side.
pub(crate) struct Handle {
    executions: mpsc::Receiver<Execution>,
    /// One permit for each load that may end.
    pub(crate) loads: Arc<Semaphore>,
    /// Loads that shall still fail.
    pub(crate) failures: Arc<AtomicUsize>,
    models: Arc<AtomicUsize>,
    lost: watch::Sender<usize>,
}

impl Handle {
    /// Ends the process of every model that is loaded now.
    pub(crate) fn lose(&self) {
        self.lost.send_modify(|losses| *losses += 1);
    }

    /// The next execution to begin.
    pub(crate) async fn next(&mut self) -> Execution {
        self.executions.recv().await.expect("the engine is there")
    }

    /// Models in memory.
    pub(crate) fn models(&self) -> usize {
        self.models.load(Ordering::SeqCst)
    }
}

/// The engine's side. It passes for the builtin engine, so that the repository's own models are loaded with it.
pub(crate) struct Fake {
    signature: Signature,
    executions: mpsc::Sender<Execution>,
    loads: Arc<Semaphore>,
    failures: Arc<AtomicUsize>,
    models: Arc<AtomicUsize>,
    lost: watch::Receiver<usize>,
}

struct Loaded {
    signature: Signature,
    executions: mpsc::Sender<Execution>,
    models: Arc<AtomicUsize>,
    lost: watch::Receiver<usize>,
    /// Losses before it was loaded.
    before: usize,
}

/// A model that takes bytes of any shape.
pub(crate) fn signature(max_batch_size: usize, concurrency: usize) -> Signature {
    let port = |name: &str| Port { name: name.into(), datatype: Some(DataType::Uint8), shape: None, optional: false };
    Signature {
        platform: "builtin".into(),
        inputs: vec![port("INPUT")],
        outputs: vec![port("OUTPUT")],
        max_batch_size,
        concurrency,
    }
}

pub(crate) fn fake(signature: Signature) -> (Arc<Fake>, Handle) {
    let (sender, executions) = mpsc::channel(64);
    let loads = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let (failures, models) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (lost, losses) = watch::channel(0);
    let handle = Handle {
        executions,
        loads: Arc::clone(&loads),
        failures: Arc::clone(&failures),
        models: Arc::clone(&models),
        lost,
    };
    (Arc::new(Fake { signature, executions: sender, loads, failures, models, lost: losses }), handle)
}

impl Fake {
    pub(crate) fn model(&self) -> Arc<dyn Model> {
        self.models.fetch_add(1, Ordering::SeqCst);
        Arc::new(Loaded {
            signature: self.signature.clone(),
            executions: self.executions.clone(),
            models: Arc::clone(&self.models),
            lost: self.lost.clone(),
            before: *self.lost.borrow(),
        })
    }
}

#[tonic::async_trait]
impl Engine for Fake {
    fn name(&self) -> &'static str {
        "builtin"
    }

    async fn load(&self, _: &Spec) -> Result<Arc<dyn Model>, Error> {
        self.loads.acquire().await.expect("open").forget();
        let fails = self.failures.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() { Err(Error::Load("planted".into())) } else { Ok(self.model()) }
    }
}

#[tonic::async_trait]
impl Model for Loaded {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn size_bytes(&self) -> u64 {
        7
    }

    async fn warm(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn execute(&self, batch: Batch) -> Result<Vec<Result<Outputs, Error>>, Error> {
        let (answer, driven) = oneshot::channel();
        let Batch { requests: batch, hold } = batch;
        self.executions.send(Execution { batch: batch.clone(), answer, _hold: hold }).await.expect("the test is there");
        match driven.await {
            Ok(What::Echo) => Ok(batch.into_iter().map(|inputs| Ok(inputs.into_iter().map(echo).collect())).collect()),
            Ok(What::Answer(answers)) => Ok(answers.into_iter().map(Ok).collect()),
            Ok(What::Fail) => Err(Error::Run("planted".into())),
            Ok(What::Refuse) => Ok(batch.into_iter().map(|_| Err(Error::Run("planted".into()))).collect()),
            Ok(What::Lose) => Err(Error::Lost("planted".into())),
            Ok(What::Panic) => panic!("planted"),
            Err(_) => std::future::pending().await,
        }
    }

    async fn lost(&self) -> String {
        let mut losses = self.lost.clone();
        let is_lost = losses.wait_for(|losses| *losses > self.before).await.is_ok();
        match is_lost {
            true => "planted".into(),
            false => std::future::pending().await,
        }
    }
}

fn echo(input: Tensor) -> Tensor {
    Tensor { name: "OUTPUT".into(), ..input }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.models.fetch_sub(1, Ordering::SeqCst);
    }
}
