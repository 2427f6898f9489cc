//! What was told already, so that each event is told once and no hour fills the store. Pure.

use std::collections::{BTreeMap, BTreeSet};

use weft_proto::weft::state::v1::Severity;

use super::findings::Finding;

/// Events of one reason in one hour; a flood of one kind leaves room for the others.
pub(super) const PER_HOUR: usize = 64;
/// Occurrences of one reason that are told in one hour: they are facts, not states, and come in numbers when much is moved.
pub(super) const OCCURRENCES_PER_HOUR: usize = 1024;
/// How often the same is told in one hour that ends and comes again: what flaps leaves room for others of its kind.
const ONSETS_PER_HOUR: u32 = 4;
/// Between an event and how often it was told before in its hour. No reason has it.
const AGAIN: char = '.';
/// How many hours an event stands in the store. What is still so after them is told again.
pub(super) const KEPT_HOURS: u64 = 6;
/// The longest subject and the longest message, in bytes: keys in the store can be long.
const LONGEST: usize = 512;

/// How many were told of each reason.
pub(super) type Counts = BTreeMap<String, usize>;

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The last hour in which each event was told.
    told: BTreeMap<String, u64>,
    /// What stood in the store when it was read, whether or not it is still so: no occurrence is told twice.
    stood: BTreeSet<String>,
    hour: u64,
    /// Those of that hour.
    counts: Counts,
    /// How often each event was told in that hour.
    onsets: BTreeMap<String, u32>,
}

/// An event that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Its place among the hour's events.
    pub(super) id: String,
    pub(super) severity: Severity,
    pub(super) reason: &'static str,
    pub(super) subject: String,
    pub(super) message: String,
}

impl Ledger {
    /// The ledger of what stands in the store, by hour and id.
    pub(super) fn of<'a>(told: impl Iterator<Item = (u64, &'a str)>, hour: u64) -> Self {
        let mut ledger = Self { hour, ..Self::default() };
        for (of, id) in told {
            ledger.stood.insert(id.to_owned());
            let event = event(id);
            let last = ledger.told.entry(event.to_owned()).or_default();
            *last = of.max(*last);
            if let Some((reason, _)) = event.rsplit_once('-').filter(|_| of == hour) {
                *ledger.counts.entry(reason.to_owned()).or_default() += 1;
                *ledger.onsets.entry(event.to_owned()).or_default() += 1;
            }
        }
        ledger
    }

    /// What of `found` is still to be told, or to be told again because what was told of it goes with its hour. What is no
    /// longer found is forgotten: it is news when it comes again.
    pub(super) fn due(&mut self, found: &[Finding], hour: u64) -> Vec<Due> {
        if hour != self.hour {
            self.begin(hour);
        }
        let found: BTreeMap<String, &Finding> = found.iter().map(|finding| (id(finding), finding)).collect();
        self.told.retain(|told, last| found.contains_key(told) && hour.saturating_sub(*last) < KEPT_HOURS);
        let mut counts = self.counts.clone();
        let mut told = Vec::new();
        for (id, finding) in found.into_iter().filter(|(id, _)| !self.told.contains_key(id)) {
            let count = counts.entry(finding.reason.to_owned()).or_default();
            let onsets = self.onsets.get(&id).copied().unwrap_or(0);
            if *count >= PER_HOUR || onsets >= ONSETS_PER_HOUR {
                continue;
            }
            *count += 1;
            // What it was told as stands in this hour.
            let id = if onsets == 0 { id } else { format!("{id}{AGAIN}{onsets}") };
            told.push(due(id, finding, *count == PER_HOUR));
        }
        told
    }

    fn begin(&mut self, hour: u64) {
        (self.hour, self.counts, self.onsets) = (hour, Counts::new(), BTreeMap::new());
    }

    /// How many of each reason were told in this hour.
    pub(super) fn counts(&self, hour: u64) -> Counts {
        if hour == self.hour { self.counts.clone() } else { Counts::new() }
    }

    /// Occurrences as they are to be told, and counted: not those that were told already, nor more of a reason than an hour tells.
    pub(super) fn occurrences(&self, found: &[Finding], counts: &mut Counts) -> Vec<Due> {
        let mut told = Vec::new();
        for finding in found {
            let (id, count) = (id(finding), counts.entry(finding.reason.to_owned()).or_default());
            if *count < OCCURRENCES_PER_HOUR && !self.stood.contains(&id) {
                *count += 1;
                told.push(due(id, finding, *count == OCCURRENCES_PER_HOUR));
            }
        }
        told
    }

    /// This one has been told, in this hour.
    pub(super) fn told(&mut self, due: &Due, hour: u64) {
        if hour > self.hour {
            self.begin(hour);
        }
        let event = event(&due.id);
        self.told.insert(event.to_owned(), hour);
        // A write that took longer than its hour is none of the next one's.
        if hour == self.hour {
            *self.onsets.entry(event.to_owned()).or_default() += 1;
            *self.counts.entry(due.reason.to_owned()).or_default() += 1;
        }
    }
}

/// Which event an id names, whenever in its hour it was told.
fn event(id: &str) -> &str {
    id.split_once(AGAIN).map_or(id, |(event, _)| event)
}

/// A finding as an event; `is_last` of its kind in this hour.
fn due(id: String, finding: &Finding, is_last: bool) -> Due {
    let last = if is_last { "; more of these are not told in this hour" } else { "" };
    Due {
        id,
        severity: finding.severity,
        reason: finding.reason,
        subject: cut(&finding.subject).to_owned(),
        message: format!("{}{last}", cut(&finding.message)),
    }
}

/// Tells texts apart, where a revision is wanted and there is none.
pub(super) fn mark(text: &str) -> i64 {
    fnv([text.as_bytes()]).cast_signed()
}

/// Tells findings apart, the same in every process and build.
fn id(finding: &Finding) -> String {
    let words = [finding.reason.as_bytes(), b"\0", finding.subject.as_bytes(), b"\0", &finding.revision.to_be_bytes()];
    // FNV-1a (Fowler, Noll and Vo): short and the same everywhere. Two events that collide within some hours would be told
    // as one, which costs a line in a list.
    format!("{}-{:016x}", finding.reason, fnv(words))
}

fn fnv<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    words.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The beginning of a text, as much as is kept.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(reason: &'static str, subject: impl Into<String>, revision: i64) -> Finding {
        Finding { severity: Severity::Warning, reason, subject: subject.into(), revision, message: "m".to_owned() }
    }

    fn tell(ledger: &mut Ledger, found: &[Finding], hour: u64) -> Vec<Due> {
        let due = ledger.due(found, hour);
        due.iter().for_each(|due| ledger.told(due, hour));
        due
    }

    #[test]
    fn each_reason_subject_and_revision_is_told_once() {
        let mut ledger = Ledger::default();
        let [first, other, newer] = [finding("A", "x", 1), finding("A", "y", 1), finding("A", "x", 2)];
        assert_eq!(tell(&mut ledger, &[first.clone(), other.clone()], 1).len(), 2);
        assert_eq!(tell(&mut ledger, &[first.clone(), other.clone()], 2), [], "not even in another hour");
        assert_eq!(tell(&mut ledger, &[newer, other], 2).len(), 1);
        assert_eq!(tell(&mut ledger, &[first], 3).len(), 1, "what was gone is news again");
    }

    #[test]
    fn what_lasts_longer_than_its_event_is_told_again() {
        let (mut ledger, found) = (Ledger::default(), [finding("A", "x", 1)]);
        let told: Vec<u64> = (100..120).filter(|hour| !tell(&mut ledger, &found, *hour).is_empty()).collect();
        assert_eq!(told, [100, 106, 112, 118]);
        // The next leader finds the last two in the store, in whatever order.
        let id = ledger.told.keys().next().expect("told").clone();
        let next =
            |hour| Ledger::of([(118, id.as_str()), (112, id.as_str())].into_iter(), hour).due(&found, hour).len();
        assert_eq!([next(119), next(123), next(124)], [0, 0, 1]);
    }

    #[test]
    fn what_is_due_stays_due_until_it_is_told() {
        let (mut ledger, found) = (Ledger::default(), [finding("A", "x", 1)]);
        assert_eq!(ledger.due(&found, 1), ledger.due(&found, 1));
    }

    #[test]
    fn what_ends_and_comes_again_within_its_hour_is_told_again_but_not_without_end() {
        let (mut ledger, found) = (Ledger::default(), [finding("A-B", "x", 1), finding("A-B", "y", 1)]);
        let mut ids = Vec::new();
        for _ in 0..6 {
            ids.extend(tell(&mut ledger, &found[..1], 7).into_iter().map(|due| due.id));
            assert_eq!(tell(&mut ledger, &[], 7), []);
        }
        let each: BTreeSet<&String> = ids.iter().collect();
        assert_eq!((ids.len(), each.len()), (4, 4), "each has a key of its own");
        assert_eq!(tell(&mut ledger, &found, 7).len(), 1, "others have their turn");
        // The next leader finds them in the store, and counts on.
        let stored = || ids.iter().take(2).map(|id| (7, id.as_str()));
        assert_eq!(Ledger::of(stored(), 7).due(&found[..1], 7), [], "it is so still");
        let mut next = Ledger::of(stored(), 7);
        assert_eq!(tell(&mut next, &[], 7), []);
        assert_eq!(tell(&mut next, &found[..1], 7)[0].id, ids[2]);
        assert_eq!(tell(&mut next, &[], 8), []);
        assert_eq!(tell(&mut next, &found[..1], 8)[0].id, ids[0], "another hour has keys of its own");
    }

    #[test]
    fn the_next_leader_reads_on() {
        let (mut first, found) = (Ledger::default(), [finding("A-B", "x", 1), finding("C", "y", 1)]);
        let due = tell(&mut first, &found, 7);
        let ids: Vec<(u64, &str)> = due.iter().map(|due| (7, due.id.as_str())).collect();
        let mut second = Ledger::of(ids.into_iter(), 8);
        assert_eq!(second.due(&found, 8), []);
        assert_eq!(second.due(&[finding("C", "z", 1)], 8).len(), 1);
    }

    #[test]
    fn one_kind_cannot_fill_an_hour() {
        let flood: Vec<Finding> = (0..1000).map(|number| finding("Flood", format!("s{number}"), 1)).collect();
        let mut found = flood;
        found.push(finding("Other", "x", 1));
        let mut ledger = Ledger::default();
        let due = tell(&mut ledger, &found, 1);
        assert_eq!(due.len(), PER_HOUR + 1);
        assert_eq!(due.iter().filter(|due| due.message.contains("more of these")).count(), 1);
        assert_eq!(tell(&mut ledger, &found, 1), []);
        // The bound holds across a change of leader.
        let ids: Vec<(u64, String)> = due.into_iter().map(|due| (1, due.id)).collect();
        let mut next = Ledger::of(ids.iter().map(|(hour, id)| (*hour, id.as_str())), 1);
        assert_eq!(next.due(&found, 1), []);
        assert_eq!(next.due(&found, 2).len(), PER_HOUR);
    }

    #[test]
    fn occurrences_are_told_once_and_within_a_bound() {
        let mut ledger = Ledger::default();
        let tell = |ledger: &mut Ledger, number: usize, hour| {
            let found = [finding("Moved", format!("s{number}"), 1)];
            let due = ledger.occurrences(&found, &mut ledger.counts(hour)).pop();
            due.inspect(|due| ledger.told(due, hour))
        };
        let first = tell(&mut ledger, 0, 1).expect("news");
        let mut next = Ledger::of([(1, first.id.as_str())].into_iter(), 1);
        assert_eq!(next.due(&[], 1), []);
        assert_eq!(tell(&mut next, 0, 1), None, "told again by the next leader");
        let told: Vec<Due> = (1..2 * OCCURRENCES_PER_HOUR).filter_map(|number| tell(&mut ledger, number, 1)).collect();
        assert_eq!(told.len(), OCCURRENCES_PER_HOUR - 1);
        assert_eq!(told.iter().filter(|due| due.message.contains("more of these")).count(), 1);
        assert!(tell(&mut ledger, 5000, 2).is_some(), "another hour");
        let many: Vec<Finding> =
            (0..2 * OCCURRENCES_PER_HOUR).map(|number| finding("Moved", format!("t{number}"), 1)).collect();
        let told = ledger.occurrences(&many, &mut ledger.counts(2));
        assert_eq!(told.len(), OCCURRENCES_PER_HOUR - 1, "those of one look count as well");
        // States have their own bound: occurrences do not use it up.
        assert_eq!(ledger.due(&[finding("Other", "x", 1)], 2).len(), 1);
    }

    #[test]
    fn long_texts_are_cut() {
        let mut ledger = Ledger::default();
        let due = ledger.due(&[finding("A", "\u{e9}".repeat(1000), 1)], 1);
        assert_eq!(due[0].subject.len(), LONGEST);
    }
}
