//! A language model that a test speaks for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, mpsc};
use weft_engine::{
    Batch, Capacity, Engine, Error, Finish, Generation, Language, Model, Occupancy, Outputs, Piece, SequenceRequest,
    Signature, Spec, Usage,
};
use weft_proto::weft::state::v1::ReplicaState;

use super::World;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sequence, in the test's hands.
pub(crate) struct Begun {
    pub(crate) request: SequenceRequest,
    // Room for one, so that a second can be sent only when the worker has taken the first.
    pieces: mpsc::Sender<Result<Piece, Error>>,
}

impl Begun {
    /// Generates a text of one token.
    pub(crate) async fn say(&self, text: &str, token: u32) {
        self.send(Ok(piece(text, token))).await;
    }

    /// Whether the worker has taken what was said before; if so, this is said.
    pub(crate) fn try_say(&self, text: &str, token: u32) -> bool {
        match self.pieces.try_send(Ok(piece(text, token))) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => false,
            Err(TrySendError::Closed(_)) => panic!("the sequence was dropped"),
        }
    }

    pub(crate) async fn end(self, finish: Finish, usage: Usage) {
        self.send(Ok(Piece { end: Some((finish, usage)), ..Piece::default() })).await;
    }

    pub(crate) async fn fail(self, error: Error) {
        self.send(Err(error)).await;
    }

    pub(crate) async fn send(&self, piece: Result<Piece, Error>) {
        let sent = tokio::time::timeout(PATIENCE, self.pieces.send(piece)).await;
        assert!(sent.expect("nobody takes it").is_ok(), "the sequence was dropped");
    }

    /// Waits until the sequence has been dropped.
    pub(crate) async fn dropped(self) {
        tokio::time::timeout(PATIENCE, self.pieces.closed()).await.expect("the sequence is kept");
    }
}

fn piece(text: &str, token: u32) -> Piece {
    Piece { text: text.to_owned(), tokens: vec![token], logprobs: vec![-0.5], end: None }
}

/// The test's side.
pub(crate) struct Handle {
    begun: mpsc::Receiver<Begun>,
    voice: Voice,
}

impl Handle {
    /// The next sequence to begin.
    pub(crate) async fn next(&mut self) -> Begun {
        // A test that waits in vain fails, where it would otherwise hang together with what it joins.
        let begun = tokio::time::timeout(PATIENCE, self.begun.recv()).await;
        begun.expect("no sequence begins").expect("the engine is there")
    }

    /// Whether none has begun that was not taken.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.begun.is_empty()
    }

    /// Refuses the next sequence.
    pub(crate) fn refuse(&self, error: Error) {
        self.voice.told.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(error);
    }

    /// Lets no sequence begin until this is dropped.
    pub(crate) async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.voice.gate).write_owned().await
    }

    pub(crate) fn occupy(&self, occupancy: Occupancy) {
        self.voice.told.lock().unwrap_or_else(PoisonError::into_inner).1 = occupancy;
    }
}

#[derive(Clone)]
struct Voice {
    signature: Signature,
    begun: mpsc::Sender<Begun>,
    told: Arc<Mutex<(Option<Error>, Occupancy)>>,
    /// Sequences begin while nobody holds it for writing.
    gate: Arc<RwLock<()>>,
}

/// A worker that serves a language model under the name `identity`.
pub(crate) async fn speaking() -> (World, Handle) {
    let (sender, begun) = mpsc::channel(64);
    let signature = Signature {
        platform: "spoken".into(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        max_batch_size: 0,
        concurrency: 1,
    };
    let voice = Voice { signature, begun: sender, told: Arc::default(), gate: Arc::default() };
    let engines = BTreeMap::from([("builtin", Arc::new(voice.clone()) as Arc<dyn Engine>)]);
    let world = World::with_engines(engines, |_| {}).await;
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    (world, Handle { begun, voice })
}

#[tonic::async_trait]
impl Engine for Voice {
    fn name(&self) -> &'static str {
        "builtin"
    }

    async fn load(&self, _: &Spec) -> Result<Arc<dyn Model>, Error> {
        Ok(Arc::new(self.clone()))
    }
}

#[tonic::async_trait]
impl Model for Voice {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn size_bytes(&self) -> u64 {
        7
    }

    async fn warm(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn execute(&self, _: Batch) -> Result<Vec<Result<Outputs, Error>>, Error> {
        panic!("a language model executes no batches")
    }

    fn language(&self) -> Option<&dyn Language> {
        Some(self)
    }
}

#[tonic::async_trait]
impl Language for Voice {
    fn capacity(&self) -> Capacity {
        Capacity { context_tokens: 16, kv_tokens: 64, slots: 4, queue: 4 }
    }

    fn occupancy(&self) -> Occupancy {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    async fn generate(&self, request: SequenceRequest) -> Result<Generation, Error> {
        if let Some(error) = self.told.lock().unwrap_or_else(PoisonError::into_inner).0.take() {
            return Err(error);
        }
        drop(self.gate.read().await);
        let (pieces, receiver) = mpsc::channel(1);
        self.begun.send(Begun { request, pieces }).await.expect("the test is there");
        Ok(Generation::new(stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))))
    }
}
