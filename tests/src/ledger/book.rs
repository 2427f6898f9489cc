//! What the ledger did: its entries, in memory or in a file that outlives the process.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use weft_participant::{Direction, Key, Mark};

use super::messages::{AccountRequest, AccountResponse, Effect, FaultKind, Fired};

/// Entries and calls that are remembered; far more than a test or a benchmark makes.
const MOST: usize = 4_000_000;

/// The ledger's contents. It does what it is told as often as it is told: that it is told once is the barrier's work.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// How many entries of a key there are, and the number of the last.
    entries: HashMap<Key, (u64, u64)>,
    effects: Vec<Effect>,
    deliveries: HashMap<Key, u64>,
    /// What went wrong as planned. No more than there are deliveries, which are bounded.
    fired: HashMap<(Key, &'static str, FaultKind), u32>,
    file: Option<File>,
}

impl Book {
    /// Entries that outlive the process.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let mut book = Self::default();
        for line in BufReader::new(&file).lines() {
            let (line, mut words) = (line?, [""; 4]);
            ensure!(line.split(' ').count() == 4, "a line of the ledger is torn");
            words.iter_mut().zip(line.split(' ')).for_each(|(word, part)| *word = part);
            let key = Key::try_new(words[1])?;
            let direction = if words[0] == "undo" { Direction::Undo } else { Direction::Action };
            book.enter(&Mark { key, direction, attempt: words[2].parse()?, epoch: words[3].parse()? });
        }
        book.file = Some(file);
        Ok(book)
    }

    pub(super) fn deliver(&mut self, mark: &Mark) {
        *self.deliveries.entry(mark.key.clone()).or_default() += 1;
    }

    pub(super) fn fire(&mut self, mark: &Mark, kind: FaultKind) {
        *self.fired.entry((mark.key.clone(), mark.direction.as_str(), kind)).or_default() += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.effects.len() >= MOST || self.deliveries.len() >= MOST
    }

    /// The number of the key's entry, if there is one.
    pub(super) fn number(&self, key: &Key) -> Option<u64> {
        self.entries.get(key).filter(|(count, _)| *count > 0).map(|(_, number)| *number)
    }

    /// Publishes or retracts, at once and for good.
    pub(super) fn effect(&mut self, mark: &Mark) -> Result<u64> {
        if let Some(file) = &mut self.file {
            let (direction, key) = (mark.direction.as_str(), mark.key.as_str());
            let line = format!("{direction} {key} {} {}\n", mark.attempt, mark.epoch);
            // One write of a short line: a process that dies has made it or has not.
            file.write_all(line.as_bytes()).context("the ledger's file")?;
        }
        Ok(self.enter(mark))
    }

    fn enter(&mut self, mark: &Mark) -> u64 {
        let Mark { key, direction, attempt, epoch } = mark.clone();
        let effect = Effect { key: key.as_str().into(), direction: direction.as_str().into(), attempt, epoch };
        self.effects.push(effect);
        let number = self.effects.len() as u64;
        let entry = self.entries.entry(key).or_default();
        *entry = match direction {
            Direction::Undo => (entry.0.saturating_sub(1), entry.1),
            Direction::Action | Direction::Probe => (entry.0 + 1, number),
        };
        number
    }

    pub(super) fn account(&self, request: &AccountRequest) -> AccountResponse {
        let prefix = &request.prefix;
        let effects = || self.effects.iter().filter(|effect| effect.key.starts_with(prefix));
        let undos = effects().filter(|effect| effect.direction == "undo").count() as u64;
        let deliveries = self.deliveries.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        let fired = self.fired.iter().filter(|((key, ..), _)| key.as_str().starts_with(prefix));
        let fired = fired.map(|((key, direction, kind), times)| Fired {
            key: key.as_str().to_owned(),
            direction: (*direction).to_owned(),
            kind: (*kind).into(),
            times: *times,
        });
        AccountResponse {
            deliveries: deliveries.map(|(_, count)| count).sum(),
            actions: effects().count() as u64 - undos,
            undos,
            effects: if request.effects { effects().cloned().collect() } else { Vec::new() },
            fired: fired.collect(),
        }
    }
}
