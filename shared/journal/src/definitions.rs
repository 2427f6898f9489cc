//! Definitions, each once, under the hash of its content.

use bytes::Bytes;
use prost::Message as _;
use weft_proto::weft::state::v1 as state;
use weft_saga::Millis;
use weft_store::{Entry, Op, Range, Txn};

use crate::error::Error;
use crate::journal::Shared;
use crate::payloads::sha256;
use crate::quota::Pressure;
use crate::record::Hash;

/// The longest definition.
const MAX_DEFINITION: usize = 256 * 1024;

/// A definition in use is written anew this often at most, to say that it is.
const COARSE: Millis = 3_600_000;

/// Keeps a definition for a new job, or says that it is still in use. Where no job begins any more, none is kept.
pub(crate) async fn put(shared: &Shared, content: Bytes) -> Result<Hash, Error> {
    if content.len() > MAX_DEFINITION {
        return Err(Error::TooLarge { len: content.len(), limit: MAX_DEFINITION });
    }
    if shared.quota.pressure() != Pressure::None {
        return Err(Error::Full);
    }
    let hash = sha256(&content);
    let key = shared.keys.definition(&hash);
    let now = shared.wall();
    let listing = shared.store.read(Range::Key(key.clone())).await?;
    let is_fresh =
        listing.entries.first().is_some_and(|entry| used_at(entry).is_some_and(|at| now.saturating_sub(at) < COARSE));
    if !is_fresh {
        let value = state::JobDefinitionRecord { content: content.into(), used_at: now }.encode_to_vec();
        // Whoever else writes it writes the same content.
        shared
            .store
            .commit(Txn { compares: vec![], ops: vec![Op::Put { key, value: value.into(), lease: None }] })
            .await?;
    }
    Ok(hash)
}

/// Reads a definition and checks that it is the one that was kept.
pub(crate) async fn get(shared: &Shared, hash: &Hash) -> Result<Bytes, Error> {
    let listing = shared.store.read(Range::Key(shared.keys.definition(hash))).await?;
    let entry = listing.entries.into_iter().next().ok_or(Error::Missing)?;
    let record = state::JobDefinitionRecord::decode(entry.value).map_err(|_| Error::Corrupt)?;
    if sha256(&record.content) == *hash { Ok(record.content.into()) } else { Err(Error::Corrupt) }
}

/// When it was last used, told coarsely; `None` when the record cannot be read.
pub(crate) fn used_at(entry: &Entry) -> Option<Millis> {
    state::JobDefinitionRecord::decode(entry.value.clone()).ok().map(|record| record.used_at)
}
