//! Between the port's words and etcd's.

use bytes::Bytes;
use etcd_client::{CompareOp, KeyValue, PutOptions, ResponseHeader, TxnOp};
use tonic::{Code, Status};

use crate::port::{Compare, Entry, Error, LeaseId, Op, Revision, Txn};

/// The record, unless its key is not text: such a key is none of ours.
pub(super) fn entry(record: KeyValue) -> Option<Entry> {
    let (create_revision, mod_revision) = (record.create_revision(), record.mod_revision());
    let (version, lease) = (record.version(), record.lease());
    let (key, value) = record.into_key_value();
    let key = key_text(key)?;
    let lease = (lease != 0).then_some(LeaseId(lease));
    Some(Entry { key, value: Bytes::from(value), create_revision, mod_revision, version, lease })
}

/// The key as text.
pub(super) fn key_text(key: Vec<u8>) -> Option<String> {
    String::from_utf8(key).inspect_err(|_| tracing::warn!("a key that is not text is left out")).ok()
}

/// The revision of an answer.
pub(super) fn revision(header: Option<&ResponseHeader>) -> Result<Revision, Error> {
    header.map(ResponseHeader::revision).ok_or_else(|| Error::Unavailable("an answer without a header".into()))
}

/// The transaction.
pub(super) fn txn(txn: Txn) -> etcd_client::Txn {
    let compares: Vec<_> = txn.compares.into_iter().map(compare).collect();
    let ops: Vec<_> = txn.ops.into_iter().map(op).collect();
    etcd_client::Txn::new().when(compares).and_then(ops)
}

fn compare(compare: Compare) -> etcd_client::Compare {
    match compare {
        Compare::CreateRevision(key, revision) => {
            etcd_client::Compare::create_revision(key, CompareOp::Equal, revision)
        }
        Compare::ModRevision(key, revision) => etcd_client::Compare::mod_revision(key, CompareOp::Equal, revision),
        Compare::Version(key, version) => etcd_client::Compare::version(key, CompareOp::Equal, version),
    }
}

fn op(op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key, value, options)
        }
        Op::Delete(key) => TxnOp::delete(key, None),
    }
}

/// The first lease that a transaction names.
pub(super) fn lease_of(txn: &Txn) -> Option<LeaseId> {
    txn.ops.iter().find_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete(_) => None,
    })
}

/// Whether the error says that a lease is gone. etcd's codes are shared by many causes, and its own client tells them
/// apart by these texts (rpctypes).
pub(super) fn is_lease_lost(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            status.code() == Code::NotFound && status.message().contains("lease not found")
        }
        etcd_client::Error::LeaseKeepAliveError(text) => text == "lease not found",
        _ => false,
    }
}

/// Whether the answer was longer than a message may be: our own side of the connection says so, not etcd.
pub(super) fn is_too_long(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    status.code() == Code::OutOfRange && !is_etcds(status)
}

/// Any other error. What is not known counts as unavailable: it is safe to try again later.
pub(super) fn error(error: &etcd_client::Error) -> Error {
    let etcd_client::Error::GRpcStatus(status) = error else { return Error::Unavailable(error.to_string()) };
    match status.code() {
        Code::OutOfRange if status.message().contains("compacted") => Error::Compacted(0),
        Code::InvalidArgument if is_etcds(status) => Error::Refused(status.message().to_owned()),
        Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => {
            Error::Unsupported(status.message().to_owned())
        }
        code => Error::Unavailable(format!("{code:?}: {}", status.message())),
    }
}

fn is_etcds(status: &Status) -> bool {
    status.message().starts_with("etcdserver:")
}

/// Whether this version of etcd is still maintained; an error if it is too old to work with.
pub(super) fn maintained(text: &str) -> Result<bool, Error> {
    match version(text) {
        None => Err(Error::Unsupported(format!("unreadable etcd version {text:?}"))),
        // Before 3.4 a watch cannot be asked for a sign of life.
        Some(version) if version < (3, 4) => {
            Err(Error::Unsupported(format!("etcd {text} is too old, 3.4 is the oldest that works")))
        }
        Some(version) => Ok(version >= (3, 5)),
    }
}

/// Major and minor of a version such as `3.5.1` or `3.6.0-rc.1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_refused() {
        for (text, verdict) in [
            ("3.3.27", None),
            ("2.9.9", None),
            ("3", None),
            ("", None),
            ("v3.5.1", None),
            ("3.4.23", Some(false)),
            ("3.5.1", Some(true)),
            ("3.6.0-rc.1", Some(true)),
            ("3.10.0", Some(true)),
            ("4.0", Some(true)),
        ] {
            assert_eq!(maintained(text).ok(), verdict, "{text:?}");
        }
    }

    #[test]
    fn errors_are_told_apart() {
        let status = |code, text: &str| etcd_client::Error::GRpcStatus(Status::new(code, text));
        let compacted = status(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        assert!(matches!(error(&compacted), Error::Compacted(_)) && !is_too_long(&compacted));
        assert!(is_too_long(&status(Code::OutOfRange, "Error, decoded message length too large: found 9 bytes")));
        assert!(is_lease_lost(&status(Code::NotFound, "etcdserver: requested lease not found")));
        assert!(!is_lease_lost(&status(Code::NotFound, "etcdserver: member not found")));
        let full = status(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(error(&full), Error::Unavailable(_)));
        assert!(matches!(error(&status(Code::InvalidArgument, "etcdserver: too many operations")), Error::Refused(_)));
        assert!(matches!(error(&status(Code::Unknown, "transport error")), Error::Unavailable(_)));
    }
}
