//! Events for operators.

use prost::Message as _;
use weft_proto::weft::state::v1::Event;
use weft_store::{Listing, Range};
use weft_types::{Deadline, Error, Reason, Result};

use super::stream::Token;
use crate::Inner;
use crate::error::store_failed;

/// How many are told to whom says nothing.
const USUAL: usize = 100;
/// The most that are told at once.
const MOST: usize = 1000;

impl Inner {
    /// The newest events, the newest first. They are read from the store: nothing but this needs them. The leader adds what
    /// it could not write yet. The token goes on after what stands in the store.
    pub(crate) async fn list_events(&self, limit: u32, deadline: Deadline) -> Result<(Vec<Event>, String)> {
        let listing = self.stored_events(deadline).await?;
        let token = Token::of(&listing).to_string();
        let mut events: Vec<Event> =
            listing.entries.into_iter().filter_map(|entry| Event::decode(entry.value).ok()).collect();
        events.extend(self.untold.beside(&events));
        Ok((newest(events, limit), token))
    }

    pub(super) async fn stored_events(&self, deadline: Deadline) -> Result<Listing> {
        let read = self.store.read(Range::Prefix(self.keys.events()));
        tokio::time::timeout_at(deadline.instant().into(), read)
            .await
            .map_err(|_| Error::new(Reason::DeadlineRunning, "the state store did not answer in time"))?
            .map_err(|error| store_failed(&error))
    }
}

fn newest(mut events: Vec<Event>, limit: u32) -> Vec<Event> {
    let time = |event: &Event| event.time.map_or((0, 0), |time| (time.seconds, time.nanos));
    events.sort_by_key(|event| std::cmp::Reverse(time(event)));
    events.truncate(match usize::try_from(limit).unwrap_or(MOST) {
        0 => USUAL,
        limit => limit.min(MOST),
    });
    events
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_newest_come_first_and_not_too_many() {
        let event = |second| {
            let time = Some(weft_proto::timestamp(UNIX_EPOCH + Duration::from_secs(second)));
            Event { time, subject: second.to_string(), ..Event::default() }
        };
        let events: Vec<Event> = [5, 7, 6].into_iter().chain(8..2000).map(event).collect();
        let told = |limit| newest(events.clone(), limit);
        assert_eq!(told(2).iter().map(|event| event.subject.as_str()).collect::<Vec<_>>(), ["1999", "1998"]);
        assert_eq!([0, 1, 500, u32::MAX].map(|limit| told(limit).len()), [100, 1, 500, 1000]);
        let few = newest([1, 3, 2].map(event).to_vec(), 0);
        assert_eq!(few.iter().map(|event| event.subject.as_str()).collect::<Vec<_>>(), ["3", "2", "1"]);
    }
}
