//! What `config.pbtxt`'s parameters may set.

use std::collections::BTreeMap;

use crate::protocol::language::Capacity;

/// llama.cpp tells at most so many sequences apart, kept prefixes included.
const MOST_SEQUENCES: u32 = 256;
/// Sequence numbers for kept prefixes and preempted sequences, over those for slots.
const SPARE_SEQUENCES: u32 = 32;
/// A model may be trained for a context whose cache would take all memory; more than this must be asked for.
const USUAL_CONTEXT: u32 = 4096;
const USUAL_SLOTS: u32 = 16;
const USUAL_QUEUE: u32 = 64;
/// Cached tokens for each slot, when nothing is set.
const USUAL_TOKENS: u32 = 512;
const USUAL_BATCH: u32 = 512;
/// More than what any machine holds, and small enough that sums of it do not overflow.
const MOST_TOKENS: u32 = 1 << 26;
/// What preempted sequences may take outside of the cache, in MiB, and kept prefixes as much again.
const USUAL_SAVED: u32 = 256;

/// The settings of a language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// The most tokens of one sequence.
    pub(super) context: u32,
    /// Sequences that step together.
    pub(super) slots: u32,
    /// Tokens that all hold together.
    pub(super) kv_tokens: u32,
    /// Sequences that may wait.
    pub(super) queue: u32,
    /// Tokens of one step.
    pub(super) batch_tokens: u32,
    /// Bytes of preempted sequences that are kept outside of the cache, and of kept prefixes.
    pub(super) saved_bytes: usize,
    /// Threads that compute.
    pub(super) threads: u32,
    /// Whether callers may send grammars and schemas.
    pub(super) grammars: bool,
}

impl Settings {
    /// Reads the parameters; `trained` is the context that the model was trained with.
    pub(super) fn parse(parameters: &BTreeMap<String, String>, trained: u32, threads: u32) -> Result<Self, String> {
        let number = |name: &str, usual: u32, least: u32, most: u32| {
            let Some(text) = parameters.get(name) else { return Ok(usual) };
            let within = |number: &u32| (least..=most).contains(number);
            text.trim()
                .parse()
                .ok()
                .filter(within)
                .ok_or_else(|| format!("parameter `{name}` must be a number from {least} to {most}"))
        };
        let trained = trained.clamp(1, MOST_TOKENS);
        let context = number("context", trained.min(USUAL_CONTEXT), 1, trained)?;
        let slots = number("slots", USUAL_SLOTS, 1, MOST_SEQUENCES - SPARE_SEQUENCES)?;
        let kv_tokens = number("kv_tokens", context.max(slots * USUAL_TOKENS), context, MOST_TOKENS)?;
        let queue = number("queue", USUAL_QUEUE, 0, 1 << 16)?;
        let batch_tokens = number("batch_tokens", USUAL_BATCH.max(slots), slots, 1 << 14)?;
        let saved = number("saved_mib", USUAL_SAVED, 0, 1 << 20)?;
        let threads = if threads > 0 { threads } else { cores() };
        let saved_bytes = (saved as usize) << 20;
        let grammars = match parameters.get("grammars").map_or("on", |text| text.trim()) {
            "on" => true,
            "off" => false,
            _ => return Err("parameter `grammars` must be `on` or `off`".to_owned()),
        };
        Ok(Self { context, slots, kv_tokens, queue, batch_tokens, saved_bytes, threads, grammars })
    }

    /// How many sequence numbers the context needs.
    pub(super) fn sequences(&self) -> u32 {
        (self.slots * 2 + SPARE_SEQUENCES).min(MOST_SEQUENCES)
    }

    pub(super) const fn capacity(&self) -> Capacity {
        Capacity { context_tokens: self.context, kv_tokens: self.kv_tokens, slots: self.slots, queue: self.queue }
    }
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<Settings, String> {
        let parameters = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::parse(&parameters, 32_768, 2)
    }

    #[test]
    fn what_is_not_set_follows_from_the_model() {
        let usual = parse(&[]).expect("valid");
        assert_eq!((usual.context, usual.slots, usual.kv_tokens), (4096, 16, 8192));
        let small = Settings::parse(&BTreeMap::new(), 512, 0).expect("valid");
        assert!((small.context, small.kv_tokens) == (512, 8192) && small.threads >= 1);
        assert_eq!(parse(&[("slots", "200")]).expect("valid").sequences(), 256);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bad = [
            ("context", "0"),
            ("context", "40000"),
            ("slots", "0"),
            ("slots", "many"),
            ("slots", "-1"),
            ("slots", "300"),
            ("kv_tokens", "100"),
            ("queue", "1e3"),
            ("batch_tokens", "4"),
            ("saved_mib", ""),
            ("grammars", "no"),
        ];
        for (name, value) in bad {
            let problem = parse(&[(name, value)]).expect_err(value);
            assert!(problem.contains(&format!("`{name}`")), "{problem}");
        }
    }
}
