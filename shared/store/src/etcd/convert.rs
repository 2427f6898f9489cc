//! Between the port's words and etcd's.

use bytes::Bytes;
use etcd_client::{CompareOp, KeyValue, PutOptions, ResponseHeader, TxnOp};
use tonic::{Code, ConnectError, Status};

use crate::port::{Compare, Entry, Error, LeaseId, Op, Revision, Txn};

/// What a failure says about where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The member works; the call failed for reasons of its own.
    Nobody,
    /// The member cannot serve at the moment, and says so: others may.
    Member,
    /// Nothing, or nothing sensible, comes over this connection: streams on it are as dead.
    Connection,
}

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
    head(header).map(ResponseHeader::revision)
}

/// Which store answered: a cluster that was set up anew has another number.
pub(super) fn cluster(header: Option<&ResponseHeader>) -> Result<u64, Error> {
    head(header).map(ResponseHeader::cluster_id)
}

fn head(header: Option<&ResponseHeader>) -> Result<&ResponseHeader, Error> {
    header.ok_or_else(|| Error::Unavailable("an answer without a header".into()))
}

/// The transaction.
pub(super) fn txn(txn: &Txn) -> etcd_client::Txn {
    let compares: Vec<_> = txn.compares.iter().map(compare).collect();
    let ops: Vec<_> = txn.ops.iter().map(op).collect();
    etcd_client::Txn::new().when(compares).and_then(ops)
}

fn compare(compare: &Compare) -> etcd_client::Compare {
    match compare {
        Compare::CreateRevision(key, revision) => {
            etcd_client::Compare::create_revision(key.as_str(), CompareOp::Equal, *revision)
        }
        Compare::ModRevision(key, revision) => {
            etcd_client::Compare::mod_revision(key.as_str(), CompareOp::Equal, *revision)
        }
        Compare::Version(key, version) => etcd_client::Compare::version(key.as_str(), CompareOp::Equal, *version),
    }
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.as_ref(), options)
        }
        Op::Delete(key) => TxnOp::delete(key.as_str(), None),
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
    let text = status.message();
    match status.code() {
        Code::OutOfRange if text.contains("compacted") => Error::Compacted(0),
        Code::OutOfRange if is_etcds(status) => Error::Refused(text.to_owned()),
        Code::InvalidArgument if text.contains(WRONG_PASSWORD) => {
            Error::Unsupported("etcd refuses the user name or the password".into())
        }
        Code::InvalidArgument if text.contains(NO_NAME) => {
            Error::Unsupported("etcd wants a user name and a password".into())
        }
        Code::InvalidArgument if text.contains(OLD_TOKEN) => Error::Unavailable(text.to_owned()),
        Code::InvalidArgument if is_etcds(status) => Error::Refused(text.to_owned()),
        Code::PermissionDenied => Error::Unsupported(format!("etcd's user may not do this: {text}")),
        Code::Unauthenticated if text.contains(DENIED) => {
            Error::Unsupported(format!("etcd's user may not do this: {text}"))
        }
        Code::Unimplemented => Error::Unsupported(text.to_owned()),
        code => Error::Unavailable(format!("{code:?}: {text}")),
    }
}

const WRONG_PASSWORD: &str = "invalid user ID or password";
const NO_NAME: &str = "user name is empty";
const OLD_TOKEN: &str = "revision of auth store is old";
const DENIED: &str = "permission denied";

/// Whether etcd did not look at the call because of its token: a new one may help, once.
pub(super) fn is_token_refused(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    match status.code() {
        Code::Unauthenticated => true,
        // Users were switched on, or one of them changed, since the token was given.
        Code::InvalidArgument => status.message().contains(NO_NAME) || status.message().contains(OLD_TOKEN),
        _ => false,
    }
}

/// Whether etcd says that the user or the password is wrong: asking again does not help.
pub(super) fn is_user_refused(status: &Status) -> bool {
    status.code() == Code::InvalidArgument && status.message().contains(WRONG_PASSWORD)
}

/// Whether etcd says that it has no users: calls need no token then.
pub(super) fn is_without_users(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    status.code() == Code::FailedPrecondition && status.message().contains("authentication is not enabled")
}

/// Why etcd ended a watch, as it would have told a call. Before 3.5.3 it says "permission denied" for a token that it no
/// longer knows, too: with a new token it turns out which it was.
pub(super) fn cancellation(reason: &str) -> etcd_client::Error {
    let code = match reason {
        reason if reason.contains(DENIED) || reason.contains("invalid auth token") => Code::Unauthenticated,
        reason if reason.contains(NO_NAME) || reason.contains(OLD_TOKEN) => Code::InvalidArgument,
        _ => Code::Unavailable,
    };
    etcd_client::Error::GRpcStatus(Status::new(code, format!("etcd ended the watch: {reason}")))
}

/// Whether no connection could be made, so that nothing was sent.
pub(super) fn never_left(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if cause.is::<ConnectError>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// What a failed call says about the member and the way to it.
pub(super) fn blame(failed: &etcd_client::Error) -> Blame {
    if !matches!(error(failed), Error::Unavailable(_)) || is_token_refused(failed) || is_too_long(failed) {
        return Blame::Nobody;
    }
    match failed {
        // Watches that ran on it have ended with the connection that it had before.
        error if never_left(error) => Blame::Member,
        etcd_client::Error::GRpcStatus(status) if is_etcds(status) => {
            let text = status.message();
            let apart = ["no leader", "timed out", "server stopped", "not healthy", "unhealthy"];
            // Anything else, such as a change of leader or a full disk, is the same at every member.
            if apart.iter().any(|sign| text.contains(sign)) { Blame::Member } else { Blame::Nobody }
        }
        _ => Blame::Connection,
    }
}

fn is_etcds(status: &Status) -> bool {
    status.message().contains("etcdserver: ")
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
        let future = status(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
        assert!(matches!(error(&future), Error::Refused(_)) && !is_too_long(&future));
    }

    #[test]
    fn a_refused_token_is_no_refused_user() {
        let status = |code, text: &str| etcd_client::Error::GRpcStatus(Status::new(code, text));
        let stale = status(Code::Unauthenticated, "etcdserver: invalid auth token");
        assert!(is_token_refused(&stale) && matches!(error(&stale), Error::Unavailable(_)));
        let old = status(Code::InvalidArgument, "etcdserver: revision of auth store is old");
        assert!(is_token_refused(&old) && matches!(error(&old), Error::Unavailable(_)));
        let nameless = status(Code::InvalidArgument, "etcdserver: user name is empty");
        assert!(is_token_refused(&nameless) && matches!(error(&nameless), Error::Unsupported(_)));
        let text = "etcdserver: authentication failed, invalid user ID or password";
        let wrong = status(Code::InvalidArgument, text);
        assert!(!is_token_refused(&wrong));
        assert!(matches!(error(&wrong), Error::Unsupported(text) if text.contains("password")));
        let denied = status(Code::PermissionDenied, "etcdserver: permission denied");
        assert!(!is_token_refused(&denied) && matches!(error(&denied), Error::Unsupported(_)));
        for error in [&stale, &old, &nameless, &wrong, &denied] {
            assert_eq!(blame(error), Blame::Nobody);
        }
        // A watch says it in a message of its own.
        assert!(is_token_refused(&cancellation("etcdserver: permission denied")));
        assert!(matches!(error(&cancellation("etcdserver: permission denied")), Error::Unsupported(_)));
        assert!(!is_token_refused(&cancellation("etcdserver: no leader")));
    }

    #[test]
    fn blame_falls_where_it_belongs() {
        let status = |code, text: &str| etcd_client::Error::GRpcStatus(Status::new(code, text));
        for (code, text, blamed) in [
            (Code::Unavailable, "etcdserver: no leader", Blame::Member),
            (Code::Unavailable, "etcdserver: request timed out", Blame::Member),
            (Code::Unavailable, "etcdserver: leader changed", Blame::Nobody),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Blame::Nobody),
            (Code::ResourceExhausted, "etcdserver: too many requests", Blame::Nobody),
            (Code::NotFound, "etcdserver: requested lease not found", Blame::Nobody),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Blame::Nobody),
            (Code::OutOfRange, "Error, decoded message length too large: found 9 bytes", Blame::Nobody),
            (Code::Unavailable, "connection reset", Blame::Connection),
            (Code::Unknown, "transport error", Blame::Connection),
        ] {
            assert_eq!(blame(&status(code, text)), blamed, "{text}");
        }
        assert_eq!(blame(&cancellation("etcdserver: no leader")), Blame::Member);
    }
}
