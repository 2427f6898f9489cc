//! What one transaction may hold: checked before it is sent, so that both adapters refuse alike.

use std::collections::HashSet;
use std::time::Duration;

use crate::port::{Error, Op, Txn};

/// The most comparisons, and the most operations, in one transaction: etcd's default (`--max-txn-ops`).
pub const MAX_OPS: usize = 128;

/// The longest value. etcd takes about 1.5 MiB for a whole request; the rest is for keys and framing.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// The most bytes of keys and values in one transaction, below etcd's `--max-request-bytes` of 1.5 MiB.
pub const MAX_TXN_BYTES: usize = 1024 * 1024 + 256 * 1024;

/// Refuses a transaction that etcd would refuse.
pub(crate) fn check(txn: &Txn) -> Result<(), Error> {
    if txn.ops.len() > MAX_OPS || txn.compares.len() > MAX_OPS {
        return Err(Error::Refused(format!("more than {MAX_OPS} operations or comparisons in one transaction")));
    }
    let mut keys = HashSet::new();
    let mut bytes = 0;
    for op in &txn.ops {
        check_op(op)?;
        if !keys.insert(op.key()) {
            return Err(Error::Refused("a key is named twice in one transaction".into()));
        }
        bytes += size(op);
    }
    if bytes > MAX_TXN_BYTES {
        return Err(Error::Refused(format!("{bytes} bytes in one transaction, over the limit of {MAX_TXN_BYTES}")));
    }
    Ok(())
}

/// Refuses an operation that no transaction may hold.
pub(crate) fn check_op(op: &Op) -> Result<(), Error> {
    if op.key().is_empty() {
        return Err(Error::Refused("an empty key".into()));
    }
    match op {
        Op::Put { value, .. } if value.len() > MAX_VALUE_BYTES => {
            Err(Error::Refused(format!("a value of {} bytes, over the limit of {MAX_VALUE_BYTES}", value.len())))
        }
        Op::Put { .. } | Op::Delete(_) => Ok(()),
    }
}

/// What an operation counts towards [`MAX_TXN_BYTES`].
pub(crate) fn size(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete(key) => key.len(),
    }
}

/// A lease's time in the unit that etcd keeps: rounded up, at least one second, at most etcd's own limit.
pub(crate) fn whole_seconds(ttl: Duration) -> u64 {
    let up = u64::from(ttl.subsec_nanos() > 0);
    ttl.as_secs().saturating_add(up).clamp(1, 9_000_000_000)
}
