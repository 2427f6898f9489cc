//! Where an event stands among the others. Pure.

use std::fmt;

use weft_store::{Entry, Revision};

/// The place of the last event of a revision.
const LAST: u32 = u32::MAX;

/// An event's place: by the revision at which it was written, and among those of one transaction by their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) revision: Revision,
    nth: u32,
}

impl Place {
    /// After everything that was written up to this revision.
    pub(super) const fn after(revision: Revision) -> Self {
        Self { revision, nth: LAST }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (revision, nth) = match text.split_once('.') {
            Some((revision, nth)) => (revision, nth.parse().ok()?),
            None => (text, LAST),
        };
        Some(Self { revision: revision.parse().ok().filter(|revision| *revision >= 0)?, nth })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nth {
            LAST => write!(formatter, "{}", self.revision),
            nth => write!(formatter, "{}.{nth}", self.revision),
        }
    }
}

/// Events in the order of their places. Those of one revision must be there together: they go together, too, by their lease.
pub(super) fn places(mut entries: Vec<Entry>) -> Vec<(Place, Entry)> {
    entries.sort_by(|one, other| (one.mod_revision, &one.key).cmp(&(other.mod_revision, &other.key)));
    let groups = entries.chunk_by(|one, other| one.mod_revision == other.mod_revision);
    let lengths: Vec<usize> = groups.map(<[Entry]>::len).collect();
    let places = lengths.into_iter().flat_map(|length| {
        (1..=length).map(move |nth| if nth == length { LAST } else { u32::try_from(nth).unwrap_or(LAST) })
    });
    let placed = places.zip(entries).map(|(nth, entry)| (Place { revision: entry.mod_revision, nth }, entry));
    placed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_revision_have_places_of_their_own() {
        let entry = |key: &str, mod_revision| Entry {
            key: key.to_owned(),
            value: bytes::Bytes::new(),
            create_revision: mod_revision,
            mod_revision,
            version: 1,
            lease: None,
        };
        let entries = vec![entry("c", 7), entry("a", 7), entry("z", 5), entry("b", 7)];
        let placed = places(entries);
        let told: Vec<String> = placed.iter().map(|(place, entry)| format!("{place} {}", entry.key)).collect();
        assert_eq!(told, ["5 z", "7.1 a", "7.2 b", "7 c"]);
        assert!(placed.is_sorted_by(|one, other| one.0 < other.0), "{placed:?}");
        assert!(placed.iter().all(|(place, _)| Place::parse(&place.to_string()) == Some(*place)));
        assert_eq!(placed.last().map(|(place, _)| *place), Some(Place::after(7)));
    }
}
