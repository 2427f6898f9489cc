//! For tests: one of several processes that want to own a register in etcd, and what it does while it owns it.
//!
//! `owner <endpoint> <number> [unfenced]` campaigns for a key. While it holds it, it keeps the register's value in memory, as
//! an owner does: it reads there, and writes to the store under its fence without looking at what stands there. That is
//! sound only as long as nobody else owns the register, which is what the tests find out. Every call is told on the
//! standard output; `unfenced` plants the bug of a writer that does not compare its fence.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::watch;
use weft_store::etcd::Options;
use weft_store::{CancellationToken, Candidacy, Commit, Election, EtcdStore, Fence, Op, Range, Store, Txn};
use weft_tests::register::{Line, OWNER, REGISTER, TTL, now};
use weft_types::SystemClock;

/// Every so many writes, one takes its time between the decision and the write: a pause there makes it late.
const SLOW: u64 = 8;
/// How long such a write thinks.
const THOUGHT: Duration = Duration::from_millis(150);
/// Values of one owner: each is written once.
const VALUES: u64 = 1_000_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let endpoint = arguments.next().context("the endpoint is missing")?;
    let number: u64 = arguments.next().context("the number is missing")?.parse()?;
    let is_fenced = match arguments.next().as_deref() {
        None => true,
        Some("unfenced") => false,
        Some(other) => bail!("'{other}' is not known"),
    };
    let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(Options::new(vec![endpoint])).await?);
    let mut owner = Owner { store: Arc::clone(&store), number, is_fenced, writes: 0 };
    loop {
        let candidacy = Candidacy { key: OWNER.to_owned(), value: number.to_string().into(), ttl: TTL };
        let (election, seen) = Election::new(Arc::clone(&store), Arc::new(SystemClock), candidacy);
        let resign = CancellationToken::new();
        let reign = async {
            let outcome = owner.reign(seen).await;
            // Also after a write of unknown outcome: with the lease, its time is over.
            resign.cancel();
            outcome
        };
        let ((), outcome) = tokio::join!(election.run(resign.clone()), reign);
        outcome?;
    }
}

struct Owner {
    store: Arc<dyn Store>,
    number: u64,
    is_fenced: bool,
    writes: u64,
}

impl Owner {
    /// Waits for its election, and owns until its term is over or a write was refused or is of unknown outcome.
    async fn reign(&mut self, mut seen: watch::Receiver<Option<Fence>>) -> Result<()> {
        let fence = seen.wait_for(Option::is_some).await?.clone().context("just seen")?;
        let holds = || {
            let current = seen.borrow();
            let same = current.as_ref().filter(|current| current.create_revision == fence.create_revision);
            same.is_some_and(|current| current.holds(SystemClock::now()))
        };
        let Some(mut value) = self.look().await? else { return Ok(()) };
        tell(Line::Elected(fence.create_revision))?;
        loop {
            // The value in memory counts at the instant at which the term is found to go on.
            let invoked = now();
            if !holds() {
                return Ok(());
            }
            tell(Line::Read { invoked, returned: now(), value })?;
            match self.write(value, &fence).await? {
                Some(left) => value = left,
                None => return Ok(()),
            }
        }
    }

    /// What stands in the store; `None` when that cannot be found out.
    async fn look(&self) -> Result<Option<u64>> {
        let invoked = now();
        let Ok(listing) = self.store.read(Range::Key(REGISTER.to_owned())).await else { return Ok(None) };
        let value = match listing.entries.first() {
            None => 0,
            Some(entry) => std::str::from_utf8(&entry.value)?.parse()?,
        };
        tell(Line::Read { invoked, returned: now(), value })?;
        Ok(Some(value))
    }

    /// Writes the next value over `found`, which nobody looks at again; returns it when it is known to stand there.
    async fn write(&mut self, found: u64, fence: &Fence) -> Result<Option<u64>> {
        self.writes += 1;
        let (write, left, slow) = (self.writes, self.number * VALUES + self.writes, self.writes.is_multiple_of(SLOW));
        tell(Line::Begun { write, invoked: now(), found, left, slow })?;
        if slow {
            tokio::time::sleep(THOUGHT).await;
        }
        let compares = if self.is_fenced { vec![fence.compare()] } else { Vec::new() };
        let put = Op::Put { key: REGISTER.to_owned(), value: left.to_string().into(), lease: None };
        match self.store.commit(Txn { compares, ops: vec![put] }).await {
            Ok(Commit::Done(_)) => {
                tell(Line::Done { write, returned: now() })?;
                Ok(Some(left))
            }
            Ok(Commit::Lost(_)) => {
                tell(Line::Refused { write })?;
                Ok(None)
            }
            Err(_) => {
                tell(Line::Unknown { write })?;
                Ok(None)
            }
        }
    }
}

/// One short line is one write to the pipe: a process that is killed has told it or has not.
fn tell(line: Line) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    Ok(out.flush()?)
}
