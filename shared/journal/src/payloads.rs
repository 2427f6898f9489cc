//! Values that are too long for the log, each under the hash of its content.
//!
//! They stand in an object store that every scheduler sees: a folder (one machine, or a shared file system), or a bucket that is
//! spoken to as Amazon S3 is. What is written is never changed, so there is nothing to coordinate. A value is safe before a record that
//! refers to it is committed.

use std::path::{Component, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{future, io};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use weft_saga::Payload;

use crate::error::Error;
use crate::keys::hex;
use crate::record::Hash;

/// Up to this length a value stands in the record itself.
pub const MAX_INLINE: usize = 4 * 1024;

/// The longest value.
pub const MAX_PAYLOAD: usize = 4 * 1024 * 1024;

/// How many values are read and written at once.
const MAX_AT_ONCE: usize = 64;
/// How many values are removed at once.
const REMOVED_AT_ONCE: usize = 16;

/// How long one request to a bucket may take, and all repetitions of it together. Jobs try again by themselves.
const REQUEST: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(3);
const RETRIES: usize = 3;

/// Where long values are kept. Clones share it.
#[derive(Clone, Debug)]
pub struct Payloads {
    place: Option<Arc<Place>>,
    /// A folder that hangs holds up so many threads, and whoever comes after them waits where it can leave.
    room: Arc<Semaphore>,
    /// As for these, of the one that removes.
    sweeping: Arc<Semaphore>,
}

#[derive(Debug)]
struct Place {
    store: Box<dyn ObjectStore>,
    root: Path,
    /// The same as a folder of this machine, where it is one.
    folder: Option<PathBuf>,
}

impl Place {
    fn path(&self, hash: &Hash) -> Path {
        let name = hex(hash);
        self.root.clone().join(&name[..2]).join(name)
    }

    /// Which value stands there: none where this build would not have put it.
    fn value_at(&self, location: &Path) -> Option<Hash> {
        location.filename().and_then(unhex).filter(|hash| self.path(hash) == *location)
    }

    /// Whether anything can have been kept here; an error where the place cannot be used at all.
    async fn is_there(&self) -> object_store::Result<bool> {
        let Some(folder) = &self.folder else {
            // A bucket that is not there has no list.
            return self.store.list(Some(&self.root)).try_next().await.map(|_| true);
        };
        match std::fs::metadata(folder) {
            Ok(found) if found.is_dir() => Ok(true),
            Ok(_) => Err(unusable(io::ErrorKind::NotADirectory.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(unusable(error)),
        }
    }

    /// Whether a value is missing, or the place that it was kept in.
    async fn missing(&self, told: object_store::Error) -> Error {
        match self.is_there().await {
            Ok(true) => Error::Missing,
            Ok(false) => Error::Place(told),
            Err(error) => Error::Place(error),
        }
    }

    async fn get(&self, hash: &Hash, len: u64) -> Result<Bytes, Error> {
        let found = match self.store.get(&self.path(hash)).await {
            Err(told @ object_store::Error::NotFound { .. }) => return Err(self.missing(told).await),
            found => found.map_err(Error::Place)?,
        };
        // Before anything of its size is read.
        if found.meta.size != len {
            return Err(Error::Corrupt);
        }
        let bytes = found.bytes().await.map_err(Error::Place)?;
        if sha256(&bytes) == *hash { Ok(bytes) } else { Err(Error::Corrupt) }
    }

    async fn sweep(&self, before: SystemTime, needed: &(dyn Fn(&Hash) -> bool + Send + Sync)) -> Result<usize, Error> {
        if let Some(folder) = &self.folder {
            remove_unfinished(folder, before).map_err(|error| Error::Place(unusable(error)))?;
        }
        let goes = |found: &ObjectMeta| {
            is_older(found, before) && self.value_at(&found.location).is_some_and(|hash| !needed(&hash))
        };
        self.store
            .list(Some(&self.root))
            .map_err(Error::Place)
            .try_filter_map(|found| future::ready(Ok(goes(&found).then_some(found.location))))
            .map_ok(|location| self.remove(location, before))
            .try_buffer_unordered(REMOVED_AT_ONCE)
            .try_fold(0, |removed, is_gone| future::ready(Ok(removed + usize::from(is_gone))))
            .await
    }

    /// Looks once more, for it may have been kept again since it was listed.
    async fn remove(&self, location: Path, before: SystemTime) -> Result<bool, Error> {
        let removed = match self.store.head(&location).await {
            Ok(found) if is_older(&found, before) => self.store.delete(&location).await.map(|()| true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        };
        match removed {
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            removed => removed.map_err(Error::Place),
        }
    }
}

/// Removes what a scheduler that was killed had begun to write: `<hash>#<number>`, which the store neither lists nor deletes.
fn remove_unfinished(folder: &std::path::Path, before: SystemTime) -> io::Result<()> {
    for (name, path) in children(folder)? {
        if name.len() != 2 || !path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            continue;
        }
        for (file, path) in children(&path)? {
            let is_ours = file.split_once('#').is_some_and(|(hash, number)| {
                let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
                is_number && hash.starts_with(&name) && unhex(hash).is_some_and(|read| hex(&read) == hash)
            });
            let modified = || path.symlink_metadata().ok().filter(std::fs::Metadata::is_file)?.modified().ok();
            if is_ours && modified().is_some_and(|modified| modified < before) {
                drop(std::fs::remove_file(&path));
            }
        }
    }
    Ok(())
}

/// What stands in a folder, as far as it is named in text; nothing where there is none.
fn children(folder: &std::path::Path) -> io::Result<Vec<(String, PathBuf)>> {
    let found = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let named = |entry: std::fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    Ok(found.filter_map(|entry| entry.ok().and_then(named)).collect())
}

fn unusable(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "folder", source: Box::new(error) }
}

/// There may be a place that another scheduler keeps its values in.
fn unset() -> Error {
    let source = "no place of values is set: give --jobs-payloads".into();
    Error::Place(object_store::Error::Generic { store: "value", source })
}

fn is_older(found: &ObjectMeta, before: SystemTime) -> bool {
    SystemTime::from(found.last_modified) < before
}

/// Why a place cannot be one for values.
#[derive(Debug, thiserror::Error)]
pub enum Misplaced {
    /// Another kind of place.
    #[error("{0:?} is neither a folder nor s3://<bucket>/<prefix>")]
    Unknown(String),
    /// The path has no name as an object's, or the bucket's settings, those of the environment among them, do not go together.
    #[error("{0}")]
    Settings(#[from] object_store::Error),
}

/// The hash of a content.
pub(crate) fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

impl Payloads {
    fn at(store: impl ObjectStore, root: Path, folder: Option<PathBuf>) -> Self {
        let place = Place { store: Box::new(store), root, folder };
        Self { place: Some(Arc::new(place)), ..Self::nowhere() }
    }

    /// In a folder, which is made when it is first needed, or in a bucket: `s3://<bucket>/<prefix>`. Where the bucket is and who asks
    /// for it is told by the environment's `AWS_` variables (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID` and so on) or by
    /// the machine that it runs on, as for other clients of S3. Nothing is asked for yet.
    /// The values of a cluster stand in a part of their own.
    pub fn named(place: &str, cluster: &str) -> Result<Self, Misplaced> {
        let unknown = || Misplaced::Unknown(place.to_owned());
        match place.split_once("://") {
            Some(("s3", rest)) => {
                let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let root = Path::parse(prefix).map_err(object_store::Error::from)?;
                if name.is_empty() {
                    Err(unknown())
                } else {
                    Ok(Self::at(bucket(name).build()?, root.join(cluster), None))
                }
            }
            Some(_) => Err(unknown()),
            None => {
                let folder = absolute(place).map_err(|_| unknown())?;
                let root = Path::from_absolute_path(&folder).map_err(object_store::Error::from)?;
                Ok(Self::at(LocalFileSystem::new().with_fsync(true), root.join(cluster), Some(folder.join(cluster))))
            }
        }
    }

    /// Nowhere: what is too long for the record is refused. For schedulers that share a store and nothing else.
    pub fn nowhere() -> Self {
        let [room, sweeping] = [MAX_AT_ONCE, 1].map(|most| Arc::new(Semaphore::new(most)));
        Self { place: None, room, sweeping }
    }

    /// In this process: for a store that ends with it, too.
    pub fn memory() -> Self {
        Self::at(InMemory::new(), Path::default(), None)
    }

    /// Keeps a value, and returns when it is safe. Keeping it again makes it young again.
    pub(crate) async fn put(&self, bytes: Bytes) -> Result<Payload, Error> {
        if bytes.len() > MAX_PAYLOAD {
            return Err(Error::TooLarge { len: bytes.len(), limit: MAX_PAYLOAD });
        }
        let place = self.place.clone().ok_or(Error::NotKept)?;
        let (hash, len) = (sha256(&bytes), u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let put = async move { place.store.put(&place.path(&hash), bytes.into()).await.map_err(Error::Place) };
        aside(&self.room, put).await?;
        Ok(Payload::Stored { sha256: hash, len })
    }

    /// Reads a value and checks that it is the one that was kept.
    pub(crate) async fn get(&self, payload: &Payload) -> Result<Bytes, Error> {
        let (hash, len) = match payload {
            Payload::Inline(text) => return Ok(Bytes::from(text.clone())),
            Payload::Stored { sha256, len } => (*sha256, *len),
        };
        let place = self.place.clone().ok_or_else(unset)?;
        aside(&self.room, async move { place.get(&hash, len).await }).await
    }

    /// Whether the place can be used, as far as one question tells.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        let Some(place) = self.place.clone() else { return Ok(()) };
        aside(&self.room, async move { place.is_there().await.map(drop).map_err(Error::Place) }).await
    }

    /// Removes what was last kept before `before` and is not `needed`; returns how much that was.
    pub(crate) async fn sweep(
        &self,
        before: SystemTime,
        needed: Arc<dyn Fn(&Hash) -> bool + Send + Sync>,
    ) -> Result<usize, Error> {
        let Some(place) = self.place.clone() else { return Ok(0) };
        aside(&self.sweeping, async move { place.sweep(before, &*needed).await }).await
    }
}

/// What hangs holds up nobody else. A caller that stops waiting leaves a whole value or none.
async fn aside<T: Send + 'static>(
    room: &Arc<Semaphore>,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    // It is never closed.
    let permit = Arc::clone(room).acquire_owned().await.map_err(|_| Error::NotKept)?;
    let runtime = Handle::current();
    let work = move || {
        // Given back when the thread is free again, however long ago its caller left.
        let _permit = permit;
        runtime.block_on(work)
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Place(error.into()))?
}

/// A path from the root, without `.` and `..`: those are taken as they are written, whatever links there are.
fn absolute(place: &str) -> io::Result<PathBuf> {
    let mut folder = PathBuf::new();
    for part in std::path::absolute(place)?.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => _ = folder.pop(),
            part => folder.push(part),
        }
    }
    Ok(folder)
}

fn bucket(name: &str) -> AmazonS3Builder {
    // Connections to etcd have the same one. Where it is there already, nothing is to be done.
    drop(rustls::crypto::ring::default_provider().install_default());
    let seconds = |limit: Duration| format!("{}s", limit.as_secs());
    AmazonS3Builder::from_env()
        .with_bucket_name(name)
        // Not every store knows how to delete several at once, and each is looked at by itself just before.
        .with_disable_bulk_delete(true)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), seconds(REQUEST))
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), seconds(CONNECT))
        .with_retry(RetryConfig { max_retries: RETRIES, retry_timeout: REQUEST, ..RetryConfig::default() })
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// The moment `age` before `now`.
pub(crate) fn before(now: SystemTime, age: Duration) -> SystemTime {
    now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
