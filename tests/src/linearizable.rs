//! Whether a recorded history of one register could have happened one call after the other.
//!
//! Each call takes effect at one instant between its invocation and its return; a history is linearizable when such instants
//! exist that make every call true. The search is Wing and Gong's with Lowe's memory ("Testing for linearizability", 2017):
//! depth first over the calls that could be next, never twice through the same set of calls with the same value.

use std::collections::HashSet;

/// What a call did, if it did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It saw this value.
    Read(u64),
    /// It found the first value and left the second.
    Swap(u64, u64),
}

impl Effect {
    /// The register's value afterwards, if the call can happen at `value`.
    fn at(self, value: u64) -> Option<u64> {
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Swap(found, left) => (found == value).then_some(left),
        }
    }
}

/// One call of a history. A call that is known to have done nothing does not belong into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it did.
    pub effect: Effect,
    /// When it began, on a clock that all callers share.
    pub invoked: u64,
    /// When its outcome was known; `None` for a call whose outcome never was: it may have happened at any time after it
    /// began, or not at all.
    pub returned: Option<u64>,
}

/// The calls that no order explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The most calls that could be put in order.
    pub explained: usize,
    /// The register's value after them.
    pub value: u64,
    /// Those that could have been next in time, but cannot have seen that value.
    pub stuck: Vec<Call>,
}

/// Looks for an order of `history` that begins with a register at `initial`.
pub fn check(initial: u64, history: &[Call]) -> Result<(), Violation> {
    let mut calls = history.to_vec();
    calls.sort_by_key(|call| call.invoked);
    Search::new(&calls, initial).run()
}

/// The calls in order of invocation, and which of them have been put in order.
struct Search<'a> {
    calls: &'a [Call],
    /// One bit for each call.
    placed: Vec<u64>,
    /// Calls that returned and are not placed.
    left: usize,
    value: u64,
    /// The placed calls in order, each with the value before it.
    order: Vec<(usize, u64)>,
    seen: HashSet<(Vec<u64>, u64)>,
    deepest: Violation,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [Call], initial: u64) -> Self {
        Self {
            calls,
            placed: vec![0; calls.len().div_ceil(64)],
            left: calls.iter().filter(|call| call.returned.is_some()).count(),
            value: initial,
            order: Vec::new(),
            seen: HashSet::new(),
            deepest: Violation { explained: 0, value: initial, stuck: Vec::new() },
        }
    }

    fn run(mut self) -> Result<(), Violation> {
        let mut from = 0;
        while self.left > 0 {
            from = match self.next(from) {
                Some((index, value)) if self.place(index, value) => 0,
                Some((index, _)) => index + 1,
                None => match self.unplace() {
                    Some(index) => index + 1,
                    None => return Err(self.deepest),
                },
            };
        }
        Ok(())
    }

    /// The next call from `from` on that can happen now, and the value that it leaves.
    fn next(&mut self, from: usize) -> Option<(usize, u64)> {
        let next = self.open().filter(|(index, _)| *index >= from);
        let next = next.filter_map(|(index, call)| Some((index, call.effect.at(self.value)?))).next();
        if next.is_none() && self.deepest.stuck.is_empty() | (self.order.len() > self.deepest.explained) {
            let stuck = self.open().map(|(_, call)| *call).collect();
            self.deepest = Violation { explained: self.order.len(), value: self.value, stuck };
        }
        next
    }

    /// The calls that began before any other one had returned: one of them is the next.
    fn open(&self) -> impl Iterator<Item = (usize, &'a Call)> {
        let unplaced = |index: &usize| !self.is_placed(*index);
        let mut horizon = u64::MAX;
        for index in (0..self.calls.len()).filter(unplaced) {
            // In order of invocation: whoever began after the horizon cannot have returned before it.
            if self.calls[index].invoked > horizon {
                break;
            }
            horizon = horizon.min(self.calls[index].returned.unwrap_or(u64::MAX));
        }
        let calls = self.calls.iter().enumerate().take_while(move |(_, call)| call.invoked <= horizon);
        calls.filter(|(index, _)| !self.is_placed(*index))
    }

    /// Puts a call next, unless that leads to where the search has been.
    fn place(&mut self, index: usize, value: u64) -> bool {
        self.placed[index / 64] ^= 1 << (index % 64);
        if !self.seen.insert((self.placed.clone(), value)) {
            self.placed[index / 64] ^= 1 << (index % 64);
            return false;
        }
        self.order.push((index, self.value));
        self.left -= usize::from(self.calls[index].returned.is_some());
        self.value = value;
        true
    }

    /// Takes the last call back.
    fn unplace(&mut self) -> Option<usize> {
        let (index, value) = self.order.pop()?;
        self.placed[index / 64] ^= 1 << (index % 64);
        self.left += usize::from(self.calls[index].returned.is_some());
        self.value = value;
        Some(index)
    }

    fn is_placed(&self, index: usize) -> bool {
        self.placed[index / 64] >> (index % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests;
