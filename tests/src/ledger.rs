//! A service that jobs call: it publishes entries, retracts them, and counts what it did (`tests/proto/weft/example/v1/ledger.proto`).
//!
//! It is written as a participant is: each method reads the call's [`Mark`], asks the [`Barrier`], and does what that says. It can be told how calls
//! that are yet to come shall go wrong. `tests/src/bin/ledger.rs` is a process of its own.

mod book;
mod client;
mod faults;
pub mod messages;
mod service;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;
use tonic::Status;
use weft_participant::{Barrier, Entry, Limits, Mark, Pass};
use weft_proto::status_of;
use weft_runtime::{Api, Drain, Health, Server, ServerOptions, Tasks};
use weft_store::EtcdStore;
use weft_store::etcd::Options;
use weft_telemetry::Scope;
use weft_types::{Error, Reason, SystemClock};

pub use self::client::{Client, marked};
pub use self::service::{NAME, descriptors};
use book::Book;
use faults::Plan;
use messages::{AccountRequest, AccountResponse, Fault, FaultKind, ProbeResponse, PublishResponse, RetractResponse};

/// The longest text of an entry.
const MAX_TEXT_BYTES: usize = 1024;

/// The most rows of the barrier: as many effects as a benchmark makes.
const ROWS: usize = 4_000_000;

/// Under which rows lie in etcd.
const PREFIX: &str = "ledger/rows/";

/// What stands between the calls and the entries.
#[derive(Clone, Debug, Default)]
pub enum Guard {
    /// Nothing: every delivery has its effect. For tests that shall see what a barrier is good for.
    Bare,
    /// Rows and entries in memory.
    #[default]
    Memory,
    /// Rows in this etcd and entries in this file: both outlive the process.
    Etcd(String, PathBuf),
}

/// How a ledger runs.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Between calls and entries.
    pub guard: Guard,
    /// The server's own settings, with its address.
    pub server: ServerOptions,
    /// Whether it may be told to end its process.
    pub may_crash: bool,
}

/// The service.
pub struct Ledger {
    barrier: Option<Barrier>,
    may_crash: bool,
    // Held for a lookup or one short line of a file, never across an await.
    book: Mutex<Book>,
    plan: Mutex<Plan>,
    /// How many calls stand still at this moment.
    held: watch::Sender<u32>,
}

/// One that serves. It ends with its tasks.
pub struct Serving {
    /// `host:port`.
    pub address: String,
    /// Ends it when run.
    pub drain: Drain,
}

/// Serves until it is drained.
pub async fn serve(setup: Setup, tasks: &Tasks) -> Result<Serving> {
    let (health, server) = (Health::default(), Server::bind(setup.server.clone()).await?);
    let address = server.address().to_string();
    let ledger = Ledger::open(&setup).await?;
    let api = Api::new(&health).with(service::Service(Arc::new(ledger))).describe(service::descriptors()?);
    let drain = server.serve(api, Scope::disabled(), tasks)?;
    Ok(Serving { address, drain })
}

impl Ledger {
    async fn open(setup: &Setup) -> Result<Self> {
        let limits = Limits { rows: ROWS, ..Limits::default() };
        let (barrier, book) = match &setup.guard {
            Guard::Bare => (None, Book::default()),
            Guard::Memory => (Some(Barrier::in_memory(Arc::new(SystemClock), limits)), Book::default()),
            Guard::Etcd(url, file) => {
                let store = Arc::new(EtcdStore::connect(Options::new(vec![url.clone()])).await?);
                let barrier = Barrier::open(store, Arc::new(SystemClock), PREFIX, limits).await?;
                (Some(barrier), Book::open(file)?)
            }
        };
        let (held, _) = watch::channel(0);
        Ok(Self { barrier, may_crash: setup.may_crash, book: Mutex::new(book), plan: Mutex::default(), held })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, faults: Vec<Fault>) -> Result<(), Error> {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Plan::try_new(faults, self.may_crash)?;
        Ok(())
    }

    async fn wait_held(&self, calls: u32) {
        // The sender is kept here, so this ends only with what it waits for, or with its call.
        let _ = self.held.subscribe().wait_for(|held| *held >= calls).await;
    }

    fn account(&self, request: &AccountRequest) -> AccountResponse {
        self.book().account(request)
    }

    async fn publish(&self, mark: &Mark, text: String) -> Result<PublishResponse, Status> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(status_of(&Error::invalid("text", format_args!("at most {MAX_TEXT_BYTES} bytes"))));
        }
        let fault = self.arrive(mark).await?;
        let (mut pass, is_new) = match self.enter(mark).await? {
            Entered::Run(pass) => (pass, true),
            Entered::Unknown(pass) => (Some(pass), self.book().number(&mark.key).is_none()),
            Entered::Answer(answer) => return self.after(mark, fault).and_then(|()| kept(answer)),
            Entered::Nothing => return Err(Status::internal("an action has something to do")),
        };
        if is_new {
            pass = self.effect(mark, fault, pass).await?;
        }
        let number = self.book().number(&mark.key).unwrap_or_default();
        let answer = PublishResponse { number, text };
        end(pass, &answer).await?;
        self.after(mark, fault)?;
        Ok(answer)
    }

    async fn retract(&self, mark: &Mark) -> Result<RetractResponse, Status> {
        let fault = self.arrive(mark).await?;
        let mut pass = match self.enter(mark).await? {
            Entered::Run(pass) => pass,
            Entered::Unknown(pass) => Some(pass),
            Entered::Answer(answer) => return self.after(mark, fault).and_then(|()| kept(answer)),
            Entered::Nothing => return Ok(RetractResponse { retracted: Some(false) }),
        };
        let is_there = self.book().number(&mark.key).is_some();
        // Without a barrier nothing is known: it does as it is told.
        if is_there || pass.is_none() {
            pass = self.effect(mark, fault, pass).await?;
        }
        let answer = RetractResponse { retracted: Some(is_there) };
        end(pass, &answer).await?;
        self.after(mark, fault)?;
        Ok(answer)
    }

    async fn probe(&self, mark: &Mark) -> Result<ProbeResponse, Status> {
        let fault = self.arrive(mark).await?;
        match fault {
            Some(kind @ FaultKind::HoldBefore) => match self.hold(mark, kind).await {},
            Some(kind @ FaultKind::Refuse) => return Err(self.refuse(mark, kind)),
            _ => {}
        }
        // The text of an answer is lost with the call that had it.
        let found = |number| PublishResponse { number, text: String::new() };
        let output = match self.enter(mark).await? {
            Entered::Answer(answer) => Some(kept(answer)?),
            Entered::Nothing => None,
            Entered::Run(_) => self.book().number(&mark.key).map(found),
            Entered::Unknown(pass) => {
                let output = self.book().number(&mark.key).map(found);
                let settled = match &output {
                    Some(output) => pass.done(output.encode_to_vec().into()).await,
                    None => pass.failed().await,
                };
                settled.map_err(|error| status_of(&error))?;
                output
            }
        };
        match fault {
            Some(kind @ FaultKind::HoldAfter) => match self.hold(mark, kind).await {},
            Some(kind @ FaultKind::Silent) => {
                self.book().fire(mark, kind);
                Ok(ProbeResponse::default())
            }
            fault => {
                self.after(mark, fault)?;
                Ok(ProbeResponse { done: Some(output.is_some()), output })
            }
        }
    }

    /// Notes the call, and has it hang or fail where that is planned.
    async fn arrive(&self, mark: &Mark) -> Result<Option<FaultKind>, Status> {
        {
            let mut book = self.book();
            if book.is_full() {
                return Err(status_of(&Error::new(Reason::Overloaded, "the ledger is full")));
            }
            book.deliver(mark);
        }
        let fault = self.plan.lock().unwrap_or_else(PoisonError::into_inner).take(mark);
        match fault {
            Some(kind @ FaultKind::Hang) => {
                self.book().fire(mark, kind);
                // Until the deadline or the caller drops the call.
                std::future::pending().await
            }
            Some(kind @ FaultKind::Unavailable) => {
                self.book().fire(mark, kind);
                Err(lost())
            }
            fault => Ok(fault),
        }
    }

    /// Stands still until the caller drops the call, or the process ends.
    async fn hold(&self, mark: &Mark, kind: FaultKind) -> Infallible {
        self.book().fire(mark, kind);
        let _held = Held::new(&self.held);
        std::future::pending().await
    }

    fn refuse(&self, mark: &Mark, kind: FaultKind) -> Status {
        self.book().fire(mark, kind);
        status_of(&Error::new(Reason::PreconditionFailed, "the ledger refuses, as planned"))
    }

    /// Loses the answer of what has happened, where that is planned.
    fn after(&self, mark: &Mark, fault: Option<FaultKind>) -> Result<(), Status> {
        let Some(kind @ FaultKind::Unknown) = fault else { return Ok(()) };
        self.book().fire(mark, kind);
        Err(lost())
    }

    async fn enter(&self, mark: &Mark) -> Result<Entered, Status> {
        let Some(barrier) = &self.barrier else { return Ok(Entered::Run(None)) };
        Ok(match barrier.enter(mark).await.map_err(|error| status_of(&error))? {
            Entry::Run(pass) => Entered::Run(Some(pass)),
            Entry::Unknown(pass) => Entered::Unknown(pass),
            Entry::Answer(answer) => Entered::Answer(answer),
            Entry::Nothing => Entered::Nothing,
        })
    }

    /// Publishes or retracts, unless it shall fail or the process shall end before or after that.
    async fn effect(&self, mark: &Mark, fault: Option<FaultKind>, pass: Option<Pass>) -> Result<Option<Pass>, Status> {
        match fault {
            Some(FaultKind::CrashBefore) => std::process::abort(),
            Some(kind @ FaultKind::HoldBefore) => match self.hold(mark, kind).await {},
            Some(kind @ FaultKind::Refuse) => {
                if let Some(pass) = pass {
                    pass.failed().await.map_err(|error| status_of(&error))?;
                }
                return Err(self.refuse(mark, kind));
            }
            _ => {}
        }
        self.book().effect(mark).map_err(|error| Status::internal(error.to_string()))?;
        match fault {
            Some(FaultKind::CrashAfter) => std::process::abort(),
            Some(kind @ FaultKind::HoldAfter) => match self.hold(mark, kind).await {},
            _ => Ok(pass),
        }
    }
}

/// A call that stands still, for as long as it does.
struct Held<'a>(&'a watch::Sender<u32>);

impl<'a> Held<'a> {
    fn new(held: &'a watch::Sender<u32>) -> Self {
        held.send_modify(|held| *held += 1);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|held| *held -= 1);
    }
}

/// What the barrier says; without one there is no pass.
enum Entered {
    Run(Option<Pass>),
    Unknown(Pass),
    Answer(Bytes),
    Nothing,
}

/// The answer of the first delivery, for a duplicate.
fn kept<T: prost::Message + Default>(answer: Bytes) -> Result<T, Status> {
    T::decode(answer).map_err(|_| Status::internal("the kept answer cannot be read"))
}

async fn end(pass: Option<Pass>, answer: &impl prost::Message) -> Result<(), Status> {
    let Some(pass) = pass else { return Ok(()) };
    pass.done(answer.encode_to_vec().into()).await.map_err(|error| status_of(&error))
}

fn lost() -> Status {
    Status::unavailable("the answer is lost, as planned")
}
