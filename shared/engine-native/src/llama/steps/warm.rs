//! The first executions, before anybody waits: they bring the weights into memory and teach what steps cost.

use llama_cpp_2::token::LlamaToken;
use weft_types::SystemClock;

use super::{Steps, count};

/// Tokens of the made-up prompt.
const PROMPT: usize = 32;
/// The first round is slow, for the weights come from the disk.
const ROUNDS: usize = 2;

impl Steps<'_> {
    /// Computes a short prompt and a step after it, and forgets them.
    pub(super) fn warm(&mut self) -> Result<(), String> {
        let settings = self.maker.settings;
        let prompt = PROMPT.min(settings.batch_tokens as usize).min((settings.context as usize).saturating_sub(1));
        for round in 1..=ROUNDS {
            for (start, tokens) in [(0, prompt), (prompt, 1)] {
                let began = SystemClock::now();
                self.compute(start, tokens)?;
                let ended = SystemClock::now();
                let took = ended.saturating_duration_since(began);
                self.longest.observe(took, ended);
                let (decoded, prompt) = if tokens == 1 { (1, 0) } else { (0, count(tokens)) };
                if round == ROUNDS {
                    self.pace.observe(decoded, prompt, took);
                }
            }
            self.memory.context.clear_kv_cache();
        }
        Ok(())
    }

    fn compute(&mut self, start: usize, tokens: usize) -> Result<(), String> {
        self.batch.clear();
        for position in start..start + tokens {
            let wanted = position + 1 == start + tokens;
            let position = i32::try_from(position).unwrap_or(i32::MAX);
            self.batch.add(LlamaToken(0), position, &[0], wanted).map_err(|error| error.to_string())?;
        }
        if tokens == 0 {
            return Ok(());
        }
        let computed = self.memory.context.decode(&mut self.batch);
        computed.map_err(|error| format!("the model cannot compute: {error}"))?;
        // Who gives none panics here, where that is a failed load.
        let logits = self.memory.context.get_logits_ith(self.batch.n_tokens() - 1);
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err("the model computes what is not a number".to_owned());
        }
        Ok(())
    }
}
