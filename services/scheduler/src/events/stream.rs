//! One watch of events: what stands in the store after its token first, then what comes.
//!
//! Events are written once and never changed, and stand for some hours. So a watch that was cut off resumes from the records themselves,
//! however far the store's history has been compacted, and at any scheduler.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weft_proto::status_of;
use weft_proto::weft::control::v1::{WatchEventsRequest, WatchEventsResponse};
use weft_proto::weft::state::v1::{Event, Severity};
use weft_store::Listing;
use weft_types::{Deadline, Error, Reason, Result};

use super::feed::Told;
use super::place::{Place, places};
use crate::Inner;

/// The answers of a watch.
pub(crate) type EventStream = Pin<Box<dyn Stream<Item = Result<WatchEventsResponse, Status>> + Send>>;

/// The longest subject prefix, in bytes, as subjects are cut.
const MAX_PREFIX_BYTES: usize = 512;
const MAX_REASONS: usize = 32;
/// The longest reason, in bytes.
const MAX_REASON_BYTES: usize = 64;

impl Inner {
    /// Begins a watch.
    pub(crate) async fn watch_events(&self, asked: WatchEventsRequest, deadline: Deadline) -> Result<EventStream> {
        let after = match asked.resume_token.as_str() {
            "" => None,
            text => Some(Token::parse(text)?),
        };
        let filter = Filter::try_new(asked)?;
        let permit = Arc::clone(&self.feed.watchers).try_acquire_owned();
        let permit = permit.map_err(|_| Error::new(Reason::Overloaded, "too many watch events already"))?;
        // Before the records are read: what is written meanwhile is in both, and told once.
        let receiver = self.feed.sender.subscribe();
        let listing = self.stored_events(deadline).await?;
        let now = Token::of(&listing);
        let at = after.unwrap_or(now);
        if at.store != now.store || at.place > now.place {
            return Err(Error::invalid("resume_token", "is of another state store: begin without one"));
        }
        let stopping = self.feed.stopping.clone();
        let mut backlog = backlog(listing, at.place);
        backlog.retain(|(_, event)| filter.takes(event));
        let watch = Watch { begun: false, backlog, now, at, receiver, filter, stopping, _permit: permit };
        Ok(Box::pin(stream::unfold(Some(watch), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(answer) => Some((Ok(answer), Some(watch))),
                // A status ends the stream.
                Err(error) => Some((Err(status_of(&error)), None)),
            }
        })))
    }
}

/// What stands in the store after a place, in the order in which it was written.
fn backlog(listing: Listing, after: Place) -> VecDeque<(Place, Event)> {
    let entries = places(listing.entries).into_iter().filter(|(place, _)| *place > after);
    entries.filter_map(|(place, entry)| Some((place, Event::decode(entry.value).ok()?))).collect()
}

struct Watch {
    begun: bool,
    backlog: VecDeque<(Place, Event)>,
    /// What was listed: everything up to here is in the backlog.
    now: Token,
    /// Everything up to here was told, or is none of this watch's.
    at: Token,
    receiver: broadcast::Receiver<Told>,
    filter: Filter,
    stopping: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchEventsResponse> {
        if !std::mem::replace(&mut self.begun, true) {
            return Ok(self.answer(None));
        }
        if let Some((place, event)) = self.backlog.pop_front() {
            self.at.place = place;
            return Ok(self.answer(Some(event)));
        }
        self.at.place = self.at.place.max(self.now.place);
        loop {
            // An event that is not taken here waits in the channel.
            let told = tokio::select! {
                biased;
                () = self.stopping.cancelled() => Err(broadcast::error::RecvError::Closed),
                told = self.receiver.recv() => told,
            };
            match told {
                Ok(Told::Event(place, event)) if place > self.at.place => {
                    self.at.place = place;
                    if self.filter.takes(&event) {
                        return Ok(self.answer(Some(Event::clone(&event))));
                    }
                }
                Ok(Told::Event(..)) => {}
                Ok(Told::Replaced) => {
                    let message = "the state store is another one than before: begin without a token";
                    return Err(Error::new(Reason::StoreUnavailable, message));
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    return Err(self.end(Reason::Overloaded, "events come faster than they are read"));
                }
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(self.end(Reason::Draining, "the scheduler is shutting down"));
                }
            }
        }
    }

    fn answer(&self, event: Option<Event>) -> WatchEventsResponse {
        WatchEventsResponse { event, resume_token: self.at.to_string() }
    }

    fn end(&self, reason: Reason, why: &str) -> Error {
        Error::new(reason, format!("{why}: resume with resume_token '{}'", self.at))
    }
}

/// Where a watch stands: in which store, and up to which place everything was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    store: u64,
    place: Place,
}

impl Token {
    /// Everything that was listed.
    pub(super) const fn of(listing: &Listing) -> Self {
        Self { store: listing.store, place: Place::after(listing.revision) }
    }

    fn parse(text: &str) -> Result<Self> {
        let parse = || {
            let (store, place) = text.split_once('-')?;
            let token = Self { store: u64::from_str_radix(store, 16).ok()?, place: Place::parse(place)? };
            (token.to_string() == text).then_some(token)
        };
        parse().ok_or_else(|| Error::invalid("resume_token", "is none that was told"))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}-{}", self.store, self.place)
    }
}

/// Which events a watch is about.
struct Filter {
    prefix: String,
    severity: i32,
    reasons: Vec<String>,
}

impl Filter {
    fn try_new(asked: WatchEventsRequest) -> Result<Self> {
        let WatchEventsRequest { subject_prefix, severity, reasons, .. } = asked;
        if subject_prefix.len() > MAX_PREFIX_BYTES {
            return Err(Error::invalid("subject_prefix", format_args!("must be at most {MAX_PREFIX_BYTES} bytes")));
        }
        if Severity::try_from(severity).is_err() {
            return Err(Error::invalid("severity", "is none that is known"));
        }
        if reasons.len() > MAX_REASONS || reasons.iter().any(|reason| reason.len() > MAX_REASON_BYTES) {
            let bound = format_args!("must be at most {MAX_REASONS} of at most {MAX_REASON_BYTES} bytes");
            return Err(Error::invalid("reasons", bound));
        }
        Ok(Self { prefix: subject_prefix, severity, reasons })
    }

    fn takes(&self, event: &Event) -> bool {
        let is_asked_for = self.reasons.is_empty() || self.reasons.contains(&event.reason);
        is_asked_for && event.severity >= self.severity && event.subject.starts_with(&self.prefix)
    }
}

#[cfg(test)]
mod tests;
