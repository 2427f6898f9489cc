//! How long steps take, learned while they run, and how much of a prompt fits into one.

use std::collections::BTreeMap;
use std::time::Duration;

/// A step with a part of a prompt in it takes at most so many times as long as one without.
const STALL: f64 = 1.45;
/// The least part of a prompt that a step computes, so that it ends one day.
const LEAST: u32 = 8;
/// Weight of the newest sample.
const WEIGHT: f64 = 0.25;
/// How long a step may take that has nobody else's token in it: what a cancelled prompt still costs at most, and how long
/// one that has just come waits before it is looked at.
const ALONE: Duration = Duration::from_millis(400);

/// What steps have cost so far, in seconds.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// By how many sequences decode; there are no more entries than slots.
    decode: BTreeMap<u32, f64>,
    /// A token of a prompt beside decoding sequences.
    beside: Option<f64>,
    /// A token of a prompt with nothing beside it, which costs less, for there are more of them.
    alone: Option<f64>,
}

impl Pace {
    /// Learns from a step in which so many sequences decoded and so many tokens of prompts were computed.
    pub fn observe(&mut self, decoded: u32, prompt: u32, took: Duration) {
        let seconds = took.as_secs_f64();
        match (decoded, prompt, self.decode(decoded)) {
            (0, 0, _) => {}
            (0, _, _) => learn(&mut self.alone, seconds / f64::from(prompt)),
            // Where nothing better is known, a mixed step stands for one without a prompt.
            (_, 0, _) | (_, _, None) => {
                self.decode.entry(decoded).and_modify(|known| *known += (seconds - *known) * WEIGHT).or_insert(seconds);
            }
            (_, _, Some(decode)) => learn(&mut self.beside, (seconds - decode).max(0.0) / f64::from(prompt)),
        }
    }

    /// The time of a step in which so many decode: of the next smaller known number, else of the next larger in proportion.
    /// Both err on the short side.
    fn decode(&self, decoding: u32) -> Option<f64> {
        let below = self.decode.range(..=decoding).next_back().map(|(_, seconds)| *seconds);
        let above = self.decode.range(decoding..).next();
        below.or_else(|| above.map(|(known, seconds)| seconds * f64::from(decoding) / f64::from((*known).max(1))))
    }

    /// How many tokens of prompts go into a step beside so many decoding sequences.
    pub fn chunk(&self, decoding: u32) -> u32 {
        let (price, seconds) = if decoding == 0 {
            (self.alone, Some(ALONE.as_secs_f64()))
        } else {
            (self.beside.or(self.alone), self.decode(decoding).map(|step| step * (STALL - 1.0)))
        };
        match (price, seconds) {
            // The conversion saturates, which is as good as no limit.
            (Some(price), Some(seconds)) => ((seconds / price) as u32).max(LEAST),
            (None, _) if decoding == 0 => u32::MAX,
            // A small part teaches the price and does no harm.
            _ => LEAST,
        }
    }
}

fn learn(price: &mut Option<f64>, sample: f64) {
    *price = Some(price.map_or(sample, |known| known + (sample - known) * WEIGHT));
}
