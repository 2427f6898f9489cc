//! The KV cache: what sequences hold in it, what is kept of those that have ended, and what is taken out to make room.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LlamaStateSeqFlags, SeqState};
use weft_policy::step;

use super::ledger::Ledger;
use super::sequence::Sequence;
use super::settings::Settings;

/// Fewer tokens than this are computed again rather than looked for and shared.
const LEAST_SHARED: usize = 16;

/// The share of the cache that prefixes may keep: every step of anybody goes over all of the cache that is in use.
const KEPT_INSIDE: u32 = 8;
/// Prefixes that are kept at all: each is looked at for every new prompt.
const MOST_PREFIXES: usize = 4096;

/// The tokens of a sequence that has ended.
struct Prefix {
    key: u64,
    place: Place,
    tokens: Vec<LlamaToken>,
    used: u64,
}

/// Where the tokens of a prefix are.
enum Place {
    /// In the cache, under this sequence number.
    Inside(i32),
    /// Copied out of it: for whoever goes on from them they are copied back, which is far cheaper than to compute them.
    Aside(SeqState),
}

impl Prefix {
    const fn cache(&self) -> Option<i32> {
        match self.place {
            Place::Inside(cache) => Some(cache),
            Place::Aside(_) => None,
        }
    }

    fn aside(&self) -> usize {
        match &self.place {
            Place::Inside(_) => 0,
            Place::Aside(state) => state.byte_len(),
        }
    }
}

/// Where a sequence's next tokens already are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Of the sequence or prefix that has them.
    pub(super) key: u64,
    /// How many tokens both have from the beginning.
    pub(super) end: usize,
    /// How many tokens come into the cache with them, when they are not there.
    pub(super) copied: usize,
}

/// The cache of one context.
pub(super) struct Memory<'a> {
    pub(super) context: LlamaContext<'a>,
    settings: Settings,
    ledger: Ledger,
    /// The sequence or prefix that has each sequence number, if any.
    holders: Vec<Option<u64>>,
    prefixes: Vec<Prefix>,
    /// Counts up with each use of a prefix.
    uses: u64,
}

impl<'a> Memory<'a> {
    pub(super) fn new(context: LlamaContext<'a>, settings: Settings) -> Self {
        let holders = vec![None; settings.sequences() as usize];
        Self { context, settings, ledger: Ledger::default(), holders, prefixes: Vec::new(), uses: 0 }
    }

    pub(super) fn used(&self) -> u32 {
        self.ledger.used()
    }

    pub(super) fn free(&self) -> u32 {
        self.settings.kv_tokens.saturating_sub(self.ledger.used())
    }

    /// Tokens that only this sequence holds.
    pub(super) fn exclusive(&self, cache: Option<i32>) -> u32 {
        cache.map_or(0, |cache| self.ledger.exclusive(cache))
    }

    /// The prefixes that are kept in the cache, as the policy sees them.
    pub(super) fn prefixes(&self) -> Vec<step::Prefix> {
        let seen = |prefix: &Prefix| {
            let exclusive = self.ledger.exclusive(prefix.cache()?);
            Some(step::Prefix { id: prefix.key, used: prefix.used, exclusive })
        };
        self.prefixes.iter().filter_map(seen).collect()
    }

    /// Who has the most of a sequence's tokens, if it is worth sharing. The last token is computed in any case, for its logits.
    pub(super) fn source(&self, one: &Sequence, all: &[Sequence]) -> Option<Source> {
        let wanted = &one.tokens[..one.tokens.len() - 1];
        let kept = self.prefixes.iter().map(|prefix| (prefix.key, prefix.tokens.as_slice(), prefix.cache().is_none()));
        let live = all.iter().filter(|other| other.key != one.key && other.cache.is_some());
        let live = live.map(|other| (other.key, &other.tokens[..other.computed], false));
        let found = kept.chain(live).map(|(key, tokens, is_aside)| {
            let copied = if is_aside { tokens.len() } else { 0 };
            Source { key, end: common(wanted, tokens), copied }
        });
        let found = found.filter(|source| source.end >= one.computed + LEAST_SHARED);
        // What is in the cache is held by both; a copy takes room of its own.
        found.max_by_key(|source| (source.end, source.copied == 0))
    }

    /// Lets a sequence hold what its source has, too. A source that had to give up its number since is of no use: then the
    /// sequence computes those tokens itself.
    pub(super) fn share(&mut self, one: &mut Sequence, source: Source) -> Result<(), String> {
        let Some(from) = self.number_of(source.key) else { return self.copy_back(one, source) };
        let cache = self.number(one)?;
        let (start, end) = (count(one.computed), count(source.end));
        self.context
            .copy_kv_cache_seq(from, cache, Some(start), Some(end))
            .map_err(|error| format!("cannot share a prefix: {error}"))?;
        self.ledger.share(from, cache, end);
        one.cached += end - start;
        one.computed = source.end;
        self.note_use(source.key);
        Ok(())
    }

    fn note_use(&mut self, key: u64) {
        self.uses += 1;
        if let Some(prefix) = self.prefixes.iter_mut().find(|prefix| prefix.key == key) {
            prefix.used = self.uses;
        }
    }

    /// Copies what was kept aside back for a sequence. Without room for it the sequence computes all of its tokens.
    fn copy_back(&mut self, one: &mut Sequence, source: Source) -> Result<(), String> {
        if !self.prefixes.iter().any(|prefix| prefix.key == source.key) {
            return Ok(());
        }
        let cache = self.number(one)?;
        let kept = self.prefixes.iter().find(|prefix| prefix.key == source.key);
        let Some(Place::Aside(state)) = kept.map(|prefix| &prefix.place) else { return Ok(()) };
        let end = count(source.end);
        let is_back = self.context.state_seq_set(state, cache).is_ok()
            && self.context.kv_cache_seq_rm(cache, Some(end), None).is_ok();
        self.ledger.release(cache);
        if is_back {
            self.ledger.grow(cache, end);
            one.cached += end - count(one.computed);
            one.computed = source.end;
            self.note_use(source.key);
        } else {
            let _ = self.context.kv_cache_seq_rm(cache, None, None);
            one.computed = 0;
        }
        Ok(())
    }

    fn number_of(&self, key: u64) -> Option<i32> {
        i32::try_from(self.holders.iter().position(|holder| *holder == Some(key))?).ok()
    }

    /// How many sequence numbers nobody has.
    pub(super) fn numbers(&self) -> usize {
        self.holders.iter().filter(|holder| holder.is_none()).count()
    }

    /// The sequence's number in the cache, a new one if it has none.
    pub(super) fn number(&mut self, one: &mut Sequence) -> Result<i32, String> {
        if let Some(cache) = one.cache {
            return Ok(cache);
        }
        let free = self.holders.iter().position(Option::is_none);
        let number = free.and_then(|free| Some((free, i32::try_from(free).ok()?)));
        let (free, cache) = number.ok_or_else(|| "there are more sequences than the cache tells apart".to_owned())?;
        self.holders[free] = Some(one.key);
        one.cache = Some(cache);
        Ok(cache)
    }

    /// Notes that a step has added tokens.
    pub(super) fn grow(&mut self, one: &Sequence, tokens: usize) {
        if let Some(cache) = one.cache {
            self.ledger.grow(cache, count(tokens));
        }
    }

    /// Takes out what a failed step may have added.
    pub(super) fn rewind(&mut self, one: &Sequence) {
        if let Some(cache) = one.cache {
            // When it fails, the next step of this sequence does, too.
            let _ = self.context.kv_cache_seq_rm(cache, Some(count(one.computed)), None);
        }
    }

    fn release(&mut self, cache: i32) {
        // The removal of a whole sequence cannot fail.
        let _ = self.context.kv_cache_seq_rm(cache, None, None);
        self.ledger.release(cache);
        if let Some(holder) = usize::try_from(cache).ok().and_then(|cache| self.holders.get_mut(cache)) {
            *holder = None;
        }
    }

    /// Forgets a kept prefix.
    pub(super) fn drop_prefix(&mut self, key: u64) {
        if let Some(place) = self.prefixes.iter().position(|prefix| prefix.key == key) {
            let prefix = self.prefixes.swap_remove(place);
            prefix.cache().into_iter().for_each(|cache| self.release(cache));
        }
    }

    /// Takes a kept prefix out of the cache. A copy is kept, unless it alone is over the limit.
    pub(super) fn evict(&mut self, key: u64) {
        let Some(place) = self.prefixes.iter().position(|prefix| prefix.key == key) else { return };
        let Some(cache) = self.prefixes[place].cache() else { return };
        let flags = LlamaStateSeqFlags::empty();
        let fits = self.context.state_seq_get_size_ext(cache, flags) <= self.settings.saved_bytes;
        let copy = if fits { self.context.state_seq_get(cache, flags).ok() } else { None };
        match copy {
            Some(state) => {
                self.prefixes[place].place = Place::Aside(state);
                self.release(cache);
                self.keep_bounds();
            }
            None => self.drop_prefix(key),
        }
    }

    /// Forgets the prefixes aside that were longest of no use, until the rest keeps to its bounds.
    fn keep_bounds(&mut self) {
        let limit = self.settings.saved_bytes;
        while self.prefixes.len() > MOST_PREFIXES || self.prefixes.iter().map(Prefix::aside).sum::<usize>() > limit {
            let aside = self.prefixes.iter().filter(|prefix| prefix.cache().is_none());
            let Some(key) = aside.min_by_key(|prefix| prefix.used).map(|prefix| prefix.key) else { return };
            self.drop_prefix(key);
        }
    }

    /// Takes the prefix that was longest of no use out of the cache, but none of the spared. Returns whether there was one.
    pub(super) fn evict_one(&mut self, spared: &[u64]) -> bool {
        let inside = self.prefixes.iter().filter(|prefix| prefix.cache().is_some() && !spared.contains(&prefix.key));
        let oldest = inside.min_by_key(|prefix| prefix.used).map(|prefix| prefix.key);
        oldest.into_iter().for_each(|key| self.evict(key));
        oldest.is_some()
    }

    /// Takes all kept prefixes out of the cache. Returns whether there was one.
    pub(super) fn evict_all(&mut self) -> bool {
        let mut is_any = false;
        while self.evict_one(&[]) {
            is_any = true;
        }
        is_any
    }

    /// Takes a sequence out of the cache. Its part is kept aside while that is less than the limit, given what others have
    /// there already; otherwise it will be computed again.
    pub(super) fn save(&mut self, one: &mut Sequence, aside: usize) {
        let Some(cache) = one.cache.take() else { return };
        let state = self.context.state_seq_get(cache, LlamaStateSeqFlags::empty()).ok();
        one.saved = state.filter(|state| aside.saturating_add(state.byte_len()) <= self.settings.saved_bytes);
        if one.saved.is_none() {
            one.computed = 0;
        }
        self.release(cache);
    }

    /// Puts a sequence's part back into the cache; when that fails it will be computed again.
    pub(super) fn restore(&mut self, one: &mut Sequence) -> Result<(), String> {
        let Some(state) = one.saved.take() else { return Ok(()) };
        let cache = self.number(one)?;
        if self.context.state_seq_set(&state, cache).is_ok() {
            self.ledger.grow(cache, count(one.computed));
        } else {
            let _ = self.context.kv_cache_seq_rm(cache, None, None);
            one.computed = 0;
        }
        Ok(())
    }

    /// Keeps the tokens of a sequence that has ended for others that begin alike, unless they are too few or already there. A
    /// prefix that they go on from is superseded.
    pub(super) fn keep(&mut self, one: Sequence) {
        let Some(cache) = one.cache else { return };
        let mut tokens = one.tokens;
        tokens.truncate(one.computed);
        let covered = self.prefixes.iter().any(|prefix| prefix.tokens.starts_with(&tokens));
        if tokens.len() < LEAST_SHARED || covered {
            self.release(cache);
            return;
        }
        let superseded = |prefix: &&Prefix| tokens.starts_with(&prefix.tokens);
        let superseded: Vec<u64> = self.prefixes.iter().filter(superseded).map(|prefix| prefix.key).collect();
        superseded.into_iter().for_each(|key| self.drop_prefix(key));
        self.uses += 1;
        self.prefixes.push(Prefix { key: one.key, place: Place::Inside(cache), tokens, used: self.uses });
        let inside = |memory: &Self| memory.prefixes().iter().map(|prefix| prefix.exclusive).sum::<u32>();
        while inside(self) > self.settings.kv_tokens / KEPT_INSIDE && self.evict_one(&[]) {}
    }

    /// Forgets a sequence whose part of the cache cannot be relied upon.
    pub(super) fn forget(&mut self, one: &mut Sequence) {
        if let Some(cache) = one.cache.take() {
            self.release(cache);
        }
    }
}

/// How many tokens two begin with in common.
fn common(one: &[LlamaToken], other: &[LlamaToken]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
