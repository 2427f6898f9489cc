//! The file: what it is, how long it is, its digest, then the records.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `WEFTSNAP` |
//! | 4 | the format's version, little endian |
//! | 8 | the payload's length, little endian |
//! | 32 | the payload's SHA-256 |
//! | | the payload: `weft.state.v1.SavedSnapshot` |

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message;
use sha2::{Digest as _, Sha256};
use weft_proto::weft::state::v1::{SavedRecord, SavedSnapshot};
use weft_store::{Change, Entry};

use super::{Restored, parts};
use crate::{Keys, Record, Snapshot};

const MAGIC: [u8; 8] = *b"WEFTSNAP";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 8 + 32;
/// A mesh of 10,000 workers with three replicas each takes some ten megabytes. A longer file is not one of ours.
pub(super) const MAX_PAYLOAD: u64 = 256 << 20;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is not a snapshot")]
    Magic,
    #[error("its format is version {0}, and this build reads version {VERSION}")]
    Version(u32),
    #[error("it has {found} bytes where {told} were written")]
    Length { told: u64, found: u64 },
    #[error("it is longer than {MAX_PAYLOAD} bytes")]
    TooLong,
    #[error("its checksum does not match")]
    Checksum,
    #[error("its records cannot be read: {0}")]
    Records(#[from] prost::DecodeError),
    #[error("it is of cluster '{0}'")]
    Cluster(String),
}

/// Reads the file; `None` when there is none.
pub(super) fn read(path: &Path, cluster: &str, now: SystemTime) -> Result<Option<Restored>, Unusable> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let payload = payload(&mut file)?;
    let saved = SavedSnapshot::decode(payload.as_slice())?;
    drop(payload);
    if saved.cluster != cluster {
        return Err(Unusable::Cluster(saved.cluster));
    }
    let told = saved.confirmed.as_ref().and_then(weft_proto::from_timestamp);
    // The file's own time is moved while nothing but confirmations come. One in the future is the clock's mistake.
    let touched = file.metadata()?.modified().ok().filter(|at| *at <= now);
    let confirmed = told.max(touched).unwrap_or(now);
    Ok(Some(Restored {
        changes: saved.records.into_iter().map(change).collect(),
        revision: saved.revision,
        age: now.duration_since(confirmed).unwrap_or(Duration::ZERO),
    }))
}

fn payload(file: &mut File) -> Result<Vec<u8>, Unusable> {
    let found = file.metadata()?.len();
    if found > MAX_PAYLOAD + HEADER as u64 {
        return Err(Unusable::TooLong);
    }
    let mut magic = [0; 8];
    let mut version = [0; 4];
    let mut length = [0; 8];
    let mut digest = [0; 32];
    let torn = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Unusable::Magic,
        _ => Unusable::Io(error),
    };
    file.read_exact(&mut magic).map_err(torn)?;
    if magic != MAGIC {
        return Err(Unusable::Magic);
    }
    file.read_exact(&mut version).map_err(torn)?;
    match u32::from_le_bytes(version) {
        VERSION => {}
        other => return Err(Unusable::Version(other)),
    }
    file.read_exact(&mut length).map_err(torn)?;
    file.read_exact(&mut digest).map_err(torn)?;
    let (told, found) = (u64::from_le_bytes(length), found - HEADER as u64);
    if told != found {
        return Err(Unusable::Length { told, found });
    }
    // Not longer than was just checked, even if it grows meanwhile.
    let mut payload = Vec::with_capacity(usize::try_from(told).unwrap_or(0));
    file.take(told).read_to_end(&mut payload)?;
    if Sha256::digest(&payload)[..] != digest {
        return Err(Unusable::Checksum);
    }
    Ok(payload)
}

fn change(record: SavedRecord) -> Change {
    Change::Put(Entry {
        key: record.key,
        value: record.value.into(),
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        // Neither is in the file, and nobody who reads snapshots asks.
        version: 0,
        lease: None,
    })
}

/// What tells one state of a file on the disk from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: SystemTime,
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        let (device, inode, length) = (found.dev(), found.ino(), found.len());
        Ok(Self { device, inode, length, modified: found.modified()? })
    }
}

/// Moves the time of the file to that of the last confirmation; `None` when it is not the one that was written, so that what
/// it holds was not confirmed.
pub(super) fn touch(path: &Path, written: Identity, confirmed: SystemTime) -> io::Result<Option<Identity>> {
    let file = File::options().write(true).open(path)?;
    if Identity::of(&file)? != written {
        return Ok(None);
    }
    file.set_modified(confirmed)?;
    Identity::of(&file).map(Some)
}

/// Writes the file: beside its place, flushed to the disk, then renamed into it, so that a reader finds the old one or the
/// new one whole, whatever ends this process.
pub(super) fn write(path: &Path, cluster: &str, snapshot: &Snapshot, confirmed: SystemTime) -> io::Result<Identity> {
    let (folder, name) = parts(path);
    std::fs::create_dir_all(folder)?;
    let unique = format!(".{name}.{}-{:08x}.tmp", std::process::id(), rand::random::<u32>());
    let unfinished = folder.join(unique);
    let written = write_to(&unfinished, cluster, snapshot, confirmed)
        .and_then(|written| std::fs::rename(&unfinished, path).map(|()| written));
    if written.is_err() {
        // The reason is told by the first failure.
        let _ = std::fs::remove_file(&unfinished);
    }
    let written = written?;
    // The new name is on the disk only when the folder is.
    File::open(folder)?.sync_all()?;
    Ok(written)
}

fn write_to(path: &PathBuf, cluster: &str, snapshot: &Snapshot, confirmed: SystemTime) -> io::Result<Identity> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut out = Out { file: BufWriter::new(file), digest: Sha256::new(), length: 0, part: Vec::new() };
    out.file.write_all(&[0; HEADER])?;
    out.message(&SavedSnapshot {
        cluster: cluster.to_owned(),
        revision: snapshot.revision,
        confirmed: Some(weft_proto::timestamp(confirmed)),
        records: Vec::new(),
    })?;
    out.snapshot(&Keys::new(cluster), snapshot)?;
    let file = out.finish()?;
    // One that is written late, while the store is away, is as old as what it holds.
    file.set_modified(confirmed)?;
    file.sync_all()?;
    Identity::of(&file)
}

/// A payload as it is written. One record at a time is encoded: concatenated messages read as one.
struct Out {
    file: BufWriter<File>,
    digest: Sha256,
    length: u64,
    part: Vec<u8>,
}

impl Out {
    fn snapshot(&mut self, keys: &Keys, snapshot: &Snapshot) -> io::Result<()> {
        for (id, record) in snapshot.workers.iter() {
            self.record(keys.worker(id), record)?;
        }
        for (name, record) in snapshot.models.iter() {
            self.record(keys.model(name), record)?;
        }
        for (name, record) in snapshot.routes.iter() {
            self.record(keys.route(name), record)?;
        }
        for (model, record) in snapshot.rollouts.iter() {
            self.record(keys.rollout(model), record)?;
        }
        for (key, record) in snapshot.placements.iter() {
            self.record(keys.placement(key), record)?;
        }
        for (key, record) in snapshot.replicas.iter() {
            self.record(keys.replica(key), record)?;
        }
        for ((kind, id), record) in snapshot.services.iter() {
            self.record(keys.service(kind, id), record)?;
        }
        match &snapshot.leader {
            Some(record) => self.record(keys.leader(), record),
            None => Ok(()),
        }
    }

    fn record<T: Message>(&mut self, key: String, record: &Arc<Record<T>>) -> io::Result<()> {
        let (create_revision, mod_revision) = (record.create_revision, record.mod_revision);
        let value = record.value.encode_to_vec();
        let record = SavedRecord { key, value, create_revision, mod_revision };
        self.message(&SavedSnapshot { records: vec![record], ..SavedSnapshot::default() })
    }

    fn message(&mut self, message: &SavedSnapshot) -> io::Result<()> {
        self.part.clear();
        message.encode(&mut self.part).map_err(io::Error::other)?;
        self.digest.update(&self.part);
        self.length += self.part.len() as u64;
        if self.length > MAX_PAYLOAD {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the snapshot is too long to be saved"));
        }
        self.file.write_all(&self.part)
    }

    fn finish(mut self) -> io::Result<File> {
        let digest = self.digest.finalize();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&MAGIC)?;
        self.file.write_all(&VERSION.to_le_bytes())?;
        self.file.write_all(&self.length.to_le_bytes())?;
        self.file.write_all(&digest)?;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}
