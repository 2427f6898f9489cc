//! Who holds which tokens of the KV cache. llama.cpp knows it, too, but cannot be asked; here each token counts once, however
//! many sequences share it.

use std::collections::BTreeMap;

/// A run of tokens that the same sequences hold.
#[derive(Debug)]
struct Run {
    tokens: u32,
    holders: u32,
}

/// The book of one cache. A sequence's tokens are its runs, one after the other.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    runs: BTreeMap<u64, Run>,
    held: BTreeMap<i32, Vec<u64>>,
    next: u64,
}

impl Ledger {
    /// Tokens that are held by anybody.
    pub(super) fn used(&self) -> u32 {
        self.runs.values().map(|run| run.tokens).sum()
    }

    /// Tokens of a sequence that nobody else holds.
    pub(super) fn exclusive(&self, sequence: i32) -> u32 {
        self.runs_of(sequence).filter(|run| run.holders == 1).map(|run| run.tokens).sum()
    }

    /// All tokens of a sequence.
    fn tokens(&self, sequence: i32) -> u32 {
        self.runs_of(sequence).map(|run| run.tokens).sum()
    }

    fn runs_of(&self, sequence: i32) -> impl Iterator<Item = &Run> {
        self.held.get(&sequence).into_iter().flatten().filter_map(|run| self.runs.get(run))
    }

    /// Adds tokens to the end of a sequence.
    pub(super) fn grow(&mut self, sequence: i32, tokens: u32) {
        if tokens == 0 {
            return;
        }
        let held = self.held.entry(sequence).or_default();
        let last = held.last().and_then(|run| self.runs.get_mut(run)).filter(|run| run.holders == 1);
        if let Some(last) = last {
            last.tokens += tokens;
            return;
        }
        held.push(self.next);
        self.runs.insert(self.next, Run { tokens, holders: 1 });
        self.next += 1;
    }

    /// Lets `to` hold what `from` holds beyond `to`'s own tokens, up to `end` tokens of both.
    pub(super) fn share(&mut self, from: i32, to: i32, end: u32) {
        let start = self.tokens(to);
        self.cut(from, start);
        self.cut(from, end);
        let mut position = 0;
        let mut shared = Vec::new();
        for id in self.held.get(&from).into_iter().flatten() {
            let Some(run) = self.runs.get_mut(id) else { continue };
            if position >= start && position < end {
                run.holders += 1;
                shared.push(*id);
            }
            position += run.tokens;
        }
        self.held.entry(to).or_default().extend(shared);
    }

    /// Makes a run of this sequence end at this position, for all that hold it.
    fn cut(&mut self, sequence: i32, position: u32) {
        let mut start = 0;
        let mut found = None;
        for id in self.held.get(&sequence).into_iter().flatten() {
            let Some(run) = self.runs.get(id) else { continue };
            if start < position && position < start + run.tokens {
                found = Some((*id, position - start));
            }
            start += run.tokens;
        }
        let Some((id, first)) = found else { return };
        let Some(run) = self.runs.get_mut(&id) else { return };
        let rest = Run { tokens: run.tokens - first, holders: run.holders };
        run.tokens = first;
        let second = self.next;
        self.next += 1;
        self.runs.insert(second, rest);
        for held in self.held.values_mut() {
            if let Some(place) = held.iter().position(|run| *run == id) {
                held.insert(place + 1, second);
            }
        }
    }

    /// Forgets a sequence; what others hold stays.
    pub(super) fn release(&mut self, sequence: i32) {
        for id in self.held.remove(&sequence).unwrap_or_default() {
            if let Some(run) = self.runs.get_mut(&id) {
                run.holders -= 1;
                if run.holders == 0 {
                    self.runs.remove(&id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// The same book, kept token by token: which cell stands at each position of a sequence.
    #[derive(Default)]
    struct Cells {
        held: BTreeMap<i32, Vec<u64>>,
        next: u64,
    }

    impl Cells {
        fn used(&self) -> usize {
            self.held.values().flatten().collect::<BTreeSet<_>>().len()
        }

        fn exclusive(&self, sequence: i32) -> usize {
            let others: BTreeSet<_> =
                self.held.iter().filter(|(id, _)| **id != sequence).flat_map(|(_, cells)| cells).collect();
            self.held.get(&sequence).into_iter().flatten().filter(|cell| !others.contains(cell)).count()
        }
    }

    proptest! {
        #[test]
        fn counts_as_a_book_of_single_tokens(
            steps in proptest::collection::vec((0u8..4, 0i32..5, 0i32..5, 0u32..20), 1..60),
        ) {
            let (mut ledger, mut cells) = (Ledger::default(), Cells::default());
            for (kind, one, other, tokens) in steps {
                let (own, theirs) = (ledger.tokens(one), ledger.tokens(other));
                match kind {
                    0 | 1 => {
                        ledger.grow(one, tokens);
                        let first = cells.next;
                        cells.next += u64::from(tokens);
                        cells.held.entry(one).or_default().extend(first..cells.next);
                    }
                    2 if one != other && theirs > own => {
                        let end = (own + tokens).min(theirs);
                        ledger.share(other, one, end);
                        let shared = cells.held[&other][own as usize..end as usize].to_vec();
                        cells.held.entry(one).or_default().extend(shared);
                    }
                    _ => {
                        ledger.release(one);
                        cells.held.remove(&one);
                    }
                }
                prop_assert_eq!(ledger.used() as usize, cells.used());
                for id in 0..5 {
                    prop_assert_eq!(ledger.exclusive(id) as usize, cells.exclusive(id));
                    prop_assert_eq!(ledger.tokens(id) as usize, cells.held.get(&id).map_or(0, Vec::len));
                }
            }
        }
    }
}
