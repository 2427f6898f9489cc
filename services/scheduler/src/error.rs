//! A failure of the state store, as the caller of a control method may see it.

use std::time::Duration;

use weft_types::{Error, Reason};

/// What a caller is told to wait: about as long as the store needs to elect a leader of its own.
const PUSHBACK: Duration = Duration::from_secs(1);

/// The failure for the caller. The store's own words go to the log, because they may hold addresses.
pub(crate) fn store_failed(error: &weft_store::Error) -> Error {
    tracing::warn!(%error, "the state store did not do as asked");
    match error {
        weft_store::Error::Unavailable(_) | weft_store::Error::Compacted(_) | weft_store::Error::LeaseLost(_) => {
            Error::new(Reason::StoreUnavailable, "the state store does not answer").retry_after(PUSHBACK)
        }
        weft_store::Error::Refused(_) | weft_store::Error::Unsupported(_) => {
            Error::new(Reason::Internal, "the state store refused the change")
        }
    }
}
