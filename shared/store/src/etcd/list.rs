//! Reading: one key, or a prefix in pages that are all of one revision.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{GetOptions, GetResponse};

use super::call::Failure;
use super::channel::Connection;
use super::{EtcdStore, convert};
use crate::port::{Error, Listing, Revision};

/// The limit of a whole listing; every page has the limit of one call besides.
const LISTING_TIMEOUT: Duration = Duration::from_secs(30);

/// A listing whose revision is compacted under it begins again this often.
const RESTARTS: u32 = 3;

/// One key.
pub(super) async fn one(store: &EtcdStore, key: String) -> Result<Listing, Error> {
    let get = |connection: Arc<Connection>| {
        let key = key.clone();
        async move { connection.client.kv_client().get(key, None).await }
    };
    let mut answer = store.call(get).await?;
    let (revision, store) = (convert::revision(answer.header())?, convert::cluster(answer.header())?);
    Ok(Listing { entries: answer.take_kvs().into_iter().filter_map(convert::entry).collect(), revision, store })
}

/// Every key that starts with `prefix`.
pub(super) async fn prefix(store: &EtcdStore, prefix: String) -> Result<Listing, Error> {
    let listing = async {
        for _ in 0..RESTARTS {
            match Pages::new(store, &prefix).read().await {
                Err(Error::Compacted(_)) => {}
                outcome => return outcome,
            }
        }
        Err(Error::Unavailable("the history is compacted faster than it can be listed".into()))
    };
    match tokio::time::timeout(LISTING_TIMEOUT, listing).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Unavailable("the listing took too long".into())),
    }
}

/// A listing on its way.
struct Pages<'a> {
    store: &'a EtcdStore,
    /// The first key not yet read, in bytes.
    start: Vec<u8>,
    /// The first key after the range.
    end: Vec<u8>,
    /// Records in a page.
    limit: i64,
    /// The revision of the first page, to which the others are pinned; 0 before it.
    revision: Revision,
}

impl<'a> Pages<'a> {
    fn new(store: &'a EtcdStore, prefix: &str) -> Self {
        let limit = i64::from(store.options.page.max(1));
        // etcd has no empty key: a zero byte stands for "from the first".
        let start = if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() };
        Self { store, start, end: after_prefix(prefix.as_bytes()), limit, revision: 0 }
    }

    async fn read(mut self) -> Result<Listing, Error> {
        let mut entries = Vec::new();
        let (mut seen, mut expected) = (0, None);
        loop {
            let mut page = self.page().await?;
            // The count is that of the whole range, without the limit.
            let expected = *expected.get_or_insert(page.count());
            if self.revision == 0 {
                self.revision = convert::revision(page.header())?;
            }
            let store = convert::cluster(page.header())?;
            let more = page.more();
            let records = page.take_kvs();
            seen += i64::try_from(records.len()).unwrap_or(i64::MAX);
            if let Some(last) = records.last() {
                self.start = [last.key(), &[0]].concat();
            }
            let empty = records.is_empty();
            entries.extend(records.into_iter().filter_map(convert::entry));
            if !more || empty {
                // A truncated listing would look like deletions.
                return match seen == expected {
                    true => Ok(Listing { entries, revision: self.revision, store }),
                    false => Err(Error::Unavailable(format!("{seen} of {expected} records listed"))),
                };
            }
        }
    }

    /// The next page, smaller if its records are too large for one message.
    async fn page(&mut self) -> Result<GetResponse, Error> {
        loop {
            let options = GetOptions::new().with_range(self.end.clone()).with_limit(self.limit);
            let options = options.with_revision(self.revision);
            let get = |connection: Arc<Connection>| {
                let (start, options) = (self.start.clone(), options.clone());
                async move { connection.client.kv_client().get(start, Some(options)).await }
            };
            match self.store.attempt(get).await {
                Err(Failure::Client(error)) if convert::is_too_long(&error) && self.limit > 1 => {
                    self.limit = (self.limit / 8).max(1);
                }
                outcome => return outcome.map_err(Failure::into_error),
            }
        }
    }
}

/// The end of the range of keys that start with `prefix`; a zero byte stands for "to the last key".
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A key is in `[prefix, after_prefix)` exactly if it starts with the prefix.
        #[test]
        fn the_range_holds_the_prefix(prefix in "[a-c\u{7f}]{1,4}", key in "[a-c\u{7f}]{1,6}") {
            let end = after_prefix(prefix.as_bytes());
            let inside = key.as_bytes() >= prefix.as_bytes() && key.as_bytes() < end.as_slice();
            prop_assert_eq!(inside, key.starts_with(&prefix));
        }
    }

    #[test]
    fn an_endless_range_is_marked() {
        assert_eq!(after_prefix(b""), [0]);
        assert_eq!(after_prefix(b"\xff\xff"), [0]);
        assert_eq!(after_prefix(b"a\xff"), b"b");
    }
}
