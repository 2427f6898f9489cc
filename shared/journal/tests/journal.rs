//! The log of jobs over the embedded store.

#[path = "journal/checks.rs"]
mod checks;

use std::future::Future;
use std::sync::Arc;

use weft_store::{CancellationToken, MemoryStore, Store};
use weft_types::SystemClock;

/// Runs a check over an embedded store that ends leases in time and forgets nothing.
async fn over_memory<F: Future<Output = ()>>(check: impl FnOnce(Arc<dyn Store>) -> F) {
    let store = MemoryStore::with_history(Arc::new(SystemClock), 1 << 20);
    let cancel = CancellationToken::new();
    let checked = async {
        checks::within(check(Arc::new(store.clone()))).await;
        cancel.cancel();
    };
    tokio::join!(store.clone().run(cancel.clone()), checked);
}

checks::every!(over_memory);
