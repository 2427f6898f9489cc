//! The parts of one step: what is known, what is moved in memory, what is computed, what is drawn from it.

use std::time::Instant;

use llama_cpp_2::DecodeError;
use weft_policy::step::{self, Plan, Turn};
use weft_types::SystemClock;

use super::super::memory::Source;
use super::super::sequence::{Next, Sequence};
use super::{Steps, count};
use crate::protocol::event;

/// A sequence's part of a batch.
pub(super) struct Part {
    key: u64,
    pub(super) tokens: usize,
    /// Whether it added the token that was drawn last, and nothing of its prompt.
    pub(super) decodes: bool,
    /// Where in the batch its last token stands, when its logits are wanted.
    last: Option<i32>,
}

impl Steps<'_> {
    /// Where tokens that are still to be computed can be had. Who decodes or was taken out of the cache needs none.
    pub(super) fn source(&self, one: &Sequence) -> Option<Source> {
        if one.left() > 1 && one.saved.is_none() { self.memory.source(one, &self.sequences) } else { None }
    }

    pub(super) fn plan(&self, sources: &[Option<Source>]) -> Plan {
        let seen = |(one, source): (&Sequence, &Option<Source>)| step::Sequence {
            id: one.key,
            band: one.band,
            arrived: one.key,
            deadline: one.deadline,
            place: one.place(),
            paused: one.paused(),
            left: count(one.left()),
            shared: source.map_or(0, |source| count(source.end - one.computed)),
            source: source.map(|source| source.key),
            saved: match (&one.saved, source) {
                (Some(_), _) => count(one.computed),
                (None, source) => source.map_or(0, |source| count(source.copied)),
            },
            exclusive: self.memory.exclusive(one.cache),
            growth: count(one.growth()),
        };
        let sequences: Vec<_> = self.sequences.iter().zip(sources).map(seen).collect();
        let settings = &self.maker.settings;
        let snapshot = step::Snapshot {
            capacity: step::Capacity {
                slots: settings.slots,
                kv_tokens: settings.kv_tokens,
                batch_tokens: settings.batch_tokens,
            },
            free: self.memory.free(),
            sequences: &sequences,
            prefixes: &self.memory.prefixes(),
        };
        step::plan(&snapshot, &self.pace, SystemClock::now())
    }

    /// Gives slots and memory to whom the plan gives them: what is shared is taken over first, then the others give up theirs,
    /// then what was taken out comes back.
    pub(super) fn rearrange(&mut self, plan: &Plan, sources: &[Option<Source>]) {
        self.free_numbers(plan, sources);
        let mut stuck = Vec::new();
        for (one, source) in self.sequences.iter_mut().zip(sources) {
            let chosen = plan.turns.iter().any(|turn| turn.id == one.key);
            if let Some(source) = source.filter(|_| chosen)
                && let Err(problem) = self.memory.share(one, source)
            {
                stuck.push((one.key, problem));
            }
        }
        self.give_up(plan);
        for turn in &plan.turns {
            let Some(one) = self.sequences.iter_mut().find(|one| one.key == turn.id) else { continue };
            one.running = true;
            let numbered = self.memory.restore(one).and_then(|()| self.memory.number(one));
            if let Err(problem) = numbered {
                stuck.push((one.key, problem));
            }
        }
        for (key, problem) in stuck {
            self.abandon(&[key], &problem);
        }
    }

    /// Sees to it that everybody with a slot can have a sequence number, of which there are fewer than sequences and prefixes.
    /// Prefixes give theirs up first, then sequences without a slot, the least urgent first; who is about to be shared does so last.
    fn free_numbers(&mut self, plan: &Plan, sources: &[Option<Source>]) {
        let chosen = |key: u64| plan.turns.iter().any(|turn| turn.id == key);
        let needed = self.sequences.iter().filter(|one| one.cache.is_none() && chosen(one.key)).count();
        let all = self.sequences.iter().zip(sources);
        let spared: Vec<u64> =
            all.filter(|(one, _)| chosen(one.key)).filter_map(|(_, source)| Some((*source)?.key)).collect();
        while self.memory.numbers() < needed {
            if self.memory.evict_one(&spared) {
                continue;
            }
            let aside = self.aside();
            let idle = self.sequences.iter_mut().filter(|one| one.cache.is_some() && !chosen(one.key));
            match idle.max_by_key(|one| (!spared.contains(&one.key), one.paused(), one.band, one.key)) {
                Some(one) => self.memory.save(one, aside),
                None if self.memory.evict_one(&[]) => {}
                None => return,
            }
        }
    }

    /// Bytes of all that was taken out of the cache.
    fn aside(&self) -> usize {
        self.sequences.iter().filter_map(|one| one.saved.as_ref()).map(|state| state.byte_len()).sum()
    }

    /// Takes slots and memory from those that the plan takes them from.
    fn give_up(&mut self, plan: &Plan) {
        let mut aside = self.aside();
        for one in &mut self.sequences {
            let (saved, parked) = (plan.saved.contains(&one.key), plan.parked.contains(&one.key));
            if one.running && (saved || parked) {
                one.running = false;
                one.preemptions += u32::from(!one.paused());
            }
            if saved {
                self.memory.save(one, aside);
                aside += one.saved.as_ref().map_or(0, |state| state.byte_len());
            }
        }
        plan.evicted.iter().for_each(|key| self.memory.evict(*key));
    }

    /// Makes the batch of a step.
    pub(super) fn fill(&mut self, turns: &[Turn]) -> Vec<Part> {
        self.batch.clear();
        let mut parts = Vec::with_capacity(turns.len());
        for turn in turns {
            let Some(one) = self.sequences.iter().find(|one| one.key == turn.id) else { continue };
            let Some(cache) = one.cache else { continue };
            let tokens = (turn.tokens as usize).min(one.left());
            let end = one.computed + tokens;
            for (position, token) in one.tokens[..end].iter().enumerate().skip(one.computed) {
                let wanted = position + 1 == one.tokens.len();
                let position = i32::try_from(position).unwrap_or(i32::MAX);
                // The plan keeps to the size of the batch.
                let _ = self.batch.add(*token, position, &[cache], wanted);
            }
            if tokens > 0 {
                let last = (end == one.tokens.len()).then(|| self.batch.n_tokens() - 1);
                parts.push(Part { key: one.key, tokens, decodes: one.left() == 1, last });
            }
        }
        parts
    }

    /// Before a step: notes who begins with it. Returns below which band it is given up for others, if for any.
    pub(super) fn begin(&mut self, parts: &[Part], now: Instant) -> Option<u64> {
        let of_step = |one: &&mut Sequence| parts.iter().any(|part| part.key == one.key);
        let parts = self.sequences.iter_mut().filter(of_step).map(|one| {
            one.began.get_or_insert(now);
            (one.band, one.stops)
        });
        step::yields(parts)
    }

    /// After a step that was given up for others.
    pub(super) fn put_back(&mut self, parts: &[Part]) {
        for part in parts {
            let Some(one) = self.sequences.iter_mut().find(|one| one.key == part.key) else { continue };
            one.stops += 1;
            self.memory.rewind(one);
        }
    }

    /// After a step: notes what it added, draws tokens, hands out pieces, ends what has ended.
    pub(super) fn advance(&mut self, parts: &[Part]) {
        for part in parts {
            let Some(place) = self.sequences.iter().position(|one| one.key == part.key) else { continue };
            let one = &mut self.sequences[place];
            one.computed += part.tokens;
            one.stops = 0;
            self.memory.grow(one, part.tokens);
            let Some(last) = part.last else { continue };
            let next = one.draw(self.maker.model, self.memory.context.get_logits_ith(last));
            if next == Next::Costly {
                self.give_up_on(place);
                continue;
            }
            let piece = one.piece(next);
            if next != Next::More {
                let one = self.sequences.remove(place);
                self.memory.keep(one);
            }
            if let Some(piece) = piece {
                self.emit(event::Body::Piece(piece));
            }
        }
    }

    /// Ends a sequence whose grammar takes so long that all others wait for it.
    fn give_up_on(&mut self, place: usize) {
        let one = self.sequences.remove(place);
        let (id, problem) = (one.id, "is so ambiguous that following it takes too long");
        self.memory.keep(one);
        self.fail(id, "input", "grammar", problem.to_owned());
    }

    /// After a step that failed. Without room nothing has been changed, and kept prefixes may make some. Otherwise each sequence
    /// is tried alone, so that none fails for another's fault.
    pub(super) fn recover(&mut self, parts: &[Part], error: &DecodeError) {
        if *error == DecodeError::NoKvCacheSlot && self.memory.evict_all() {
            return;
        }
        for part in parts {
            if let Some(one) = self.sequences.iter().find(|one| one.key == part.key) {
                self.memory.rewind(one);
            }
            let alone = self.fill(&[Turn { id: part.key, tokens: count(part.tokens) }]);
            match self.memory.context.decode(&mut self.batch) {
                Ok(()) => self.advance(&alone),
                Err(error) => self.abandon(&[part.key], &format!("the engine could not compute a step: {error}")),
            }
        }
    }
}
