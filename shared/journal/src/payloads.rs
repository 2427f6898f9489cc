//! Values that are too long for the log, each under the hash of its content.
//!
//! A folder that every scheduler sees (one machine, or a shared file system) is enough: what is written is never changed, so there is
//! nothing to coordinate. A value is on the disk before a record that refers to it is committed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
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

/// Where long values are kept. Clones share it.
#[derive(Clone, Debug)]
pub struct Payloads {
    place: Arc<Place>,
    /// A folder that hangs holds up so many threads, and whoever comes after them waits where it can leave.
    room: Arc<Semaphore>,
}

#[derive(Debug)]
enum Place {
    Nowhere,
    Folder(PathBuf),
    // Held for one lookup or change, never across an await.
    Memory(Mutex<HashMap<Hash, (Bytes, SystemTime)>>),
}

/// The hash of a content.
pub(crate) fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

impl Payloads {
    fn at(place: Place) -> Self {
        Self { place: Arc::new(place), room: Arc::new(Semaphore::new(MAX_AT_ONCE)) }
    }

    /// In a folder, which is made when it is first needed.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self::at(Place::Folder(path.into()))
    }

    /// Nowhere: what is too long for the record is refused. For schedulers that share a store and no folder.
    pub fn nowhere() -> Self {
        Self::at(Place::Nowhere)
    }

    /// In this process: for a store that ends with it, too.
    pub fn memory() -> Self {
        Self::at(Place::Memory(Mutex::default()))
    }

    /// Keeps a value, and returns when it is safe. Keeping it again makes it young again.
    pub(crate) async fn put(&self, bytes: Bytes, now: SystemTime) -> Result<Payload, Error> {
        if bytes.len() > MAX_PAYLOAD {
            return Err(Error::TooLarge { len: bytes.len(), limit: MAX_PAYLOAD });
        }
        let (hash, len) = (sha256(&bytes), u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.blocking(move |place| match place {
            Place::Nowhere => Err(Error::NotKept),
            Place::Folder(root) => write(root, &hash, &bytes),
            Place::Memory(kept) => {
                kept.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, (bytes, now));
                Ok(())
            }
        })
        .await?;
        Ok(Payload::Stored { sha256: hash, len })
    }

    /// Reads a value and checks that it is the one that was kept.
    pub(crate) async fn get(&self, payload: &Payload) -> Result<Bytes, Error> {
        let (hash, len) = match payload {
            Payload::Inline(text) => return Ok(Bytes::from(text.clone())),
            Payload::Stored { sha256, len } => (*sha256, *len),
        };
        let bytes = self.blocking(move |place| read(place, &hash)).await?;
        let is_whole = u64::try_from(bytes.len()).is_ok_and(|found| found == len) && sha256(&bytes) == hash;
        if is_whole { Ok(bytes) } else { Err(Error::Corrupt) }
    }

    /// Removes what was last kept before `before` and is not `needed`; returns how much that was.
    pub(crate) async fn sweep(
        &self,
        before: SystemTime,
        needed: Arc<dyn Fn(&Hash) -> bool + Send + Sync>,
    ) -> Result<usize, Error> {
        self.blocking(move |place| match place {
            Place::Nowhere => Ok(0),
            Place::Folder(root) => sweep(root, before, &*needed),
            Place::Memory(kept) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let all = kept.len();
                kept.retain(|hash, (_, since)| *since >= before || needed(hash));
                Ok(all - kept.len())
            }
        })
        .await
    }

    /// Files are read and written where that holds up nobody else. A caller that stops waiting leaves a whole file or none.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let place = Arc::clone(&self.place);
        // It is never closed.
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(std::io::Error::other)?;
        let work = move || {
            // Given back when the thread is free again, however long ago its caller left.
            let _permit = permit;
            work(&place)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(outcome) => outcome,
            Err(error) => Err(std::io::Error::other(error).into()),
        }
    }
}

fn path(root: &Path, hash: &Hash) -> PathBuf {
    let name = hex(hash);
    root.join(&name[..2]).join(name)
}

fn write(root: &Path, hash: &Hash, bytes: &[u8]) -> Result<(), Error> {
    let path = path(root, hash);
    let folder = path.parent().unwrap_or(root);
    fs::create_dir_all(folder)?;
    // Written aside and renamed: whoever reads finds the whole content or none.
    let aside = folder.join(format!(".{}.{:016x}", hex(&hash[..4]), rand::random::<u64>()));
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&aside, &path)).and_then(|()| File::open(folder)?.sync_all());
    if renamed.is_err() {
        // The error that matters is the first one.
        drop(fs::remove_file(&aside));
    }
    Ok(renamed?)
}

fn read(place: &Place, hash: &Hash) -> Result<Bytes, Error> {
    match place {
        Place::Nowhere => Err(Error::Missing),
        Place::Folder(root) => match fs::read(path(root, hash)) {
            Ok(bytes) => Ok(Bytes::from(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::Missing),
            Err(error) => Err(error.into()),
        },
        Place::Memory(kept) => {
            let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get(hash).map(|(bytes, _)| bytes.clone()).ok_or(Error::Missing)
        }
    }
}

fn sweep(root: &Path, before: SystemTime, needed: &dyn Fn(&Hash) -> bool) -> Result<usize, Error> {
    let mut removed = 0;
    for folder in entries(root)?.into_iter().filter(|path| path.is_dir()) {
        for path in entries(&folder)? {
            // What was left half written is as old as its last byte.
            let hash = path.file_name().and_then(|name| name.to_str()).and_then(unhex);
            let is_old = fs::metadata(&path).and_then(|file| file.modified()).is_ok_and(|at| at < before);
            if is_old && !hash.is_some_and(|hash| needed(&hash)) {
                fs::remove_file(&path)?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// What a folder holds; nothing where there is none yet.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
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
