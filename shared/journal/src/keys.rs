//! Where the journal's records stand in the store, below the cluster's root.

use sha2::{Digest as _, Sha256};
use weft_saga::Hold;

use crate::id::JobId;
use crate::record::Hash;

/// The key space of one cluster's jobs.
#[derive(Clone, Debug)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// The keys below `root`, which ends with `/`.
    pub fn new(root: impl Into<String>) -> Self {
        Self { root: root.into() }
    }

    /// `member/`, where schedulers say that they live.
    pub fn members(&self) -> String {
        format!("{}member/", self.root)
    }

    pub(crate) fn member(&self, id: &str) -> String {
        format!("{}member/{id}", self.root)
    }

    /// `own/`, where the owner of each shard stands.
    pub fn owners(&self) -> String {
        format!("{}own/", self.root)
    }

    pub(crate) fn owner(&self, shard: u8) -> String {
        format!("{}own/{shard:02x}", self.root)
    }

    /// The shard of a key below [`Self::owners`].
    pub(crate) fn shard_of(&self, key: &str) -> Option<u8> {
        let digits = key.strip_prefix(&self.root)?.strip_prefix("own/")?;
        u8::from_str_radix(digits, 16).ok().filter(|shard| self.owner(*shard) == key)
    }

    pub(crate) fn sequence(&self, shard: u8) -> String {
        format!("{}seq/{shard:02x}", self.root)
    }

    pub(crate) fn all_jobs(&self) -> String {
        format!("{}saga/", self.root)
    }

    pub(crate) fn jobs(&self, shard: u8) -> String {
        format!("{}saga/{shard:02x}/", self.root)
    }

    /// Where the record of a job stands until the job ends.
    pub fn job(&self, id: &JobId) -> String {
        format!("{}{id}", self.jobs(id.shard()))
    }

    pub(crate) fn all_ended(&self) -> String {
        format!("{}done/", self.root)
    }

    pub(crate) fn ended_of(&self, shard: u8) -> String {
        format!("{}done/{shard:02x}/", self.root)
    }

    pub(crate) fn ended(&self, id: &JobId) -> String {
        format!("{}{id}", self.ended_of(id.shard()))
    }

    /// Hashed: callers choose both texts, and neither may reach beyond its place.
    pub(crate) fn idempotency(&self, tenant: &str, key: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(u64::try_from(tenant.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(tenant);
        hash.update(key);
        format!("{}idem/{}", self.root, hex(&hash.finalize()))
    }

    /// `slot/`, where taken slots stand.
    pub(crate) fn slots(&self) -> String {
        format!("{}slot/", self.root)
    }

    pub(crate) fn slot(&self, hold: &Hold) -> String {
        format!("{}slot/{}/{}/{}", self.root, hold.pool, hold.worker, hold.number)
    }

    /// The pool, the worker and the number of a slot's key.
    pub(crate) fn slot_of<'a>(&self, key: &'a str) -> Option<(&'a str, &'a str, u32)> {
        let mut parts = key.strip_prefix(&self.root)?.strip_prefix("slot/")?.split('/');
        let (pool, worker, number) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some((pool, worker, number))
    }

    pub(crate) fn definitions(&self) -> String {
        format!("{}def/", self.root)
    }

    pub(crate) fn definition(&self, hash: &Hash) -> String {
        format!("{}def/{}", self.root, hex(hash))
    }

    /// `workers/`, where workers say which slots they offer.
    pub(crate) fn workers(&self) -> String {
        format!("{}workers/", self.root)
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        let keys = Keys::new("/weft/v1/test/");
        assert_eq!(keys.shard_of(&keys.owner(10)), Some(10));
        for bad in
            ["/weft/v1/test/own/", "/weft/v1/test/own/A", "/weft/v1/test/own/100", "/weft/v1/test/own/0A", "own/00"]
        {
            assert_eq!(keys.shard_of(bad), None, "{bad}");
        }
        let hold = Hold { pool: "gpu".into(), worker: "w-1".into(), number: 3, confirmed: false };
        assert_eq!(keys.slot_of(&keys.slot(&hold)), Some(("gpu", "w-1", 3)));
        for bad in ["/weft/v1/test/slot/gpu/w-1/x", "/weft/v1/test/slot/gpu/w-1/1/2", "/weft/v1/test/slot/gpu/1"] {
            assert_eq!(keys.slot_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_two_callers_share_a_key() {
        let keys = Keys::new("/");
        assert_ne!(keys.idempotency("a", "bc"), keys.idempotency("ab", "c"));
        assert_ne!(keys.idempotency("a/b", "c"), keys.idempotency("a", "b/c"));
    }
}
