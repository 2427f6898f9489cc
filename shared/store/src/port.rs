//! The state port: what Weft asks of a store, in etcd's terms.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use weft_types::Reason;

/// A point in the store's history; it grows by one with every committed change.
pub type Revision = i64;

/// A lease: keys put under it vanish when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The whole key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision at which the key last came into being: the fence of whoever owns it.
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
    /// How often it was put since it came into being; 1 at first.
    pub version: i64,
    /// The lease it hangs on.
    pub lease: Option<LeaseId>,
}

/// What to read or watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// One key.
    Key(String),
    /// Every key that starts with this text.
    Prefix(String),
}

impl Range {
    /// Whether `key` is in it.
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Self::Key(only) => key == only,
            Self::Prefix(prefix) => key.starts_with(prefix.as_str()),
        }
    }
}

/// Entries in key order, all as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The store's revision at the time of reading: watch from the next one.
    pub revision: Revision,
    /// Which store it is: revisions of two stores cannot be compared.
    pub store: u64,
}

/// A condition of a transaction; a key that does not exist has revisions and version zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key came into being at this revision.
    CreateRevision(String, Revision),
    /// The key last changed at this revision.
    ModRevision(String, Revision),
    /// The key was put this often.
    Version(String, i64),
}

/// A change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key, under a lease or for good.
    Put {
        /// The whole key.
        key: String,
        /// The value, at most 1 MiB.
        value: Bytes,
        /// The lease it shall hang on.
        lease: Option<LeaseId>,
    },
    /// Removes a key, if it is there.
    Delete(String),
}

impl Op {
    /// The key it changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// All or nothing: the operations happen at one revision if every comparison holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The changes, at most 128, each key at most once.
    pub ops: Vec<Op>,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// It happened, at this revision.
    Done(Revision),
    /// A comparison did not hold: nothing happened.
    Lost(Revision),
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key has a new value.
    Put(Entry),
    /// The key is gone.
    Delete {
        /// The whole key.
        key: String,
        /// The revision at which it went.
        mod_revision: Revision,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// One message of a watch: the changes up to a revision; none at all means "confirmed up to here".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Every change up to this revision has now been told.
    pub revision: Revision,
    /// The changes in order.
    pub changes: Vec<Change>,
}

/// A watch as it runs. It ends with an error or when the connection is cut; [`crate::Mirror`] resumes it.
pub type Watch = Pin<Box<dyn Stream<Item = Result<Changes, Error>> + Send>>;

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be reached, or did not answer in time. The change may or may not have happened.
    #[error("the state store does not answer: {0}")]
    Unavailable(String),
    /// The history asked for is gone: list again.
    #[error("history before revision {0} is compacted")]
    Compacted(Revision),
    /// The lease has ended.
    #[error("lease {} has ended", .0.0)]
    LeaseLost(LeaseId),
    /// The transaction or value is over a limit, or names a key twice.
    #[error("the store refuses the request: {0}")]
    Refused(String),
    /// What answers is not a store that Weft can work with; waiting does not help.
    #[error("the state store cannot be used: {0}")]
    Unsupported(String),
}

/// What a caller may know of it: the cause stays in our own logs, since it can hold addresses.
impl From<Error> for weft_types::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(_) | Error::Compacted(_) | Error::Unsupported(_) => {
                Self::new(Reason::StoreUnavailable, "the state store does not answer")
            }
            Error::LeaseLost(_) => Self::new(Reason::StaleEpoch, "the writer's lease has ended"),
            // Our own words (`limits`), or etcd's about the request: sizes and counts, never a key.
            Error::Refused(_) => Self::new(Reason::InvalidRequest, "the record is over a limit of the state store"),
        }
    }
}

/// The state store.
///
/// Every call ends within the adapter's own time limit. Two adapters, `memory` and `etcd`, pass one conformance suite.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads a key or every key below a prefix, as of one revision.
    async fn read(&self, range: Range) -> Result<Listing, Error>;
    /// Tells every change at or after revision `from`, in order. Fails with [`Error::Compacted`], here or as an item.
    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error>;
    /// Compares and commits.
    async fn commit(&self, txn: Txn) -> Result<Commit, Error>;
    /// Opens a lease that ends `ttl` after its last renewal (whole seconds, at least one).
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error>;
    /// Renews a lease and returns what it now has left: proof from the store, not a message put in a queue.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error>;
    /// Ends a lease and removes its keys.
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;
}

/// A member of the store, as it answered just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its version.
    pub version: String,
    /// The size of its database file in bytes; deleted and compacted records count until it is defragmented.
    pub database_bytes: u64,
    /// What of that is in use, in bytes: the rest is written again before the file grows.
    pub used_bytes: u64,
    /// Whether it leads the others.
    pub leader: bool,
    /// The alarms that it has raised, such as `NOSPACE`.
    pub alarms: Vec<String>,
    /// Why nothing more is known of it; `None` when it answered.
    pub error: Option<String>,
}

/// What keeps a store healthy over months; only the scheduler's leader and operators need it.
#[async_trait]
pub trait Maintain: Send + Sync + 'static {
    /// Forgets the history before `revision`, or the database grows for ever. Forgetting it again is no error.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;
    /// Every member, in the order in which they were configured.
    async fn members(&self) -> Vec<Member>;
}
