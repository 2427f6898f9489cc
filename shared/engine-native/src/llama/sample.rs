//! The next token of a sequence, drawn from its logits.
//!
//! A vocabulary has hundreds of thousands of tokens, and llama.cpp's samplers copy and sort them all. So the likeliest are
//! found here first, and only those few go through its chain; the outcome is the same.

use std::collections::VecDeque;
use std::time::Duration;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use super::grammar;
use super::prompt::Refusal;
use crate::protocol::language::{Bias, Sampling};

mod rank;

/// Penalties look back so far, as llama.cpp's usual setting has it.
const WINDOW: usize = 64;
/// How many of the likeliest tokens a grammar is asked about, before it is asked about all of them.
const GRAMMAR_TRIES: [usize; 2] = [64, 4096];
/// More biases than any caller needs; each is looked at for each token.
const MOST_BIASES: usize = 1024;

/// How one sequence's tokens are drawn.
#[derive(Debug)]
pub(super) struct Sampler {
    settings: Sampling,
    /// What draws from the candidates that are left; absent when the likeliest is taken.
    chain: Option<LlamaSampler>,
    grammar: Option<LlamaSampler>,
    /// Tokens that may not come.
    banned: Vec<LlamaToken>,
    window: VecDeque<LlamaToken>,
}

/// What one token may cost a grammar, in time of the processor. llama.cpp follows all readings of an ambiguous grammar at once,
/// and there can be twice as many with each character; everybody else's next token waits for them.
const GRAMMAR_TIME: Duration = Duration::from_millis(500);

/// Why no token comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// Nothing may come: the grammar is complete, or contradicts the rest of the request.
    Nothing,
    /// The grammar takes too long.
    Costly,
}

impl Sampler {
    /// `prompt` fills the window of the penalties; `banned` tokens never come; `seed` counts when the caller gave none.
    pub(super) fn new(
        model: &LlamaModel,
        settings: Sampling,
        prompt: &[LlamaToken],
        banned: &[LlamaToken],
        seed: u32,
    ) -> Result<Self, Refusal> {
        check(&settings, model.n_vocab())?;
        if !settings.gbnf.is_empty() && !settings.json_schema.is_empty() {
            return Err(Refusal::new("json_schema", "cannot be followed together with a grammar"));
        }
        let grammar = match grammar::from_gbnf(model, &settings.gbnf)? {
            Some(grammar) => Some(grammar),
            None => grammar::from_schema(model, &settings.json_schema)?,
        };
        let chain = (settings.temperature > 0.0).then(|| chain(&settings, settings.seed.unwrap_or(seed)));
        let mut sampler =
            Self { settings, chain, grammar, banned: banned.to_vec(), window: VecDeque::with_capacity(WINDOW) };
        let start = prompt.len().saturating_sub(WINDOW);
        prompt[start..].iter().for_each(|token| sampler.remember(*token));
        Ok(sampler)
    }

    /// Draws the next token from the logits of all tokens, and remembers it.
    pub(super) fn draw(&mut self, logits: &[f32]) -> Result<LlamaToken, Halt> {
        let began = self.grammar.is_some().then(processor_time);
        let changed = self.changed(logits);
        let token = self.pick(rank::likeliest(logits, &changed, self.wanted()));
        let allowed = token.filter(|token| self.grammar_allows(*token));
        let token = match allowed {
            Some(token) => token,
            None => self.pick_by_grammar(logits, &changed).ok_or(Halt::Nothing)?,
        };
        if let Some(grammar) = &mut self.grammar
            && grammar.try_accept(token).is_err()
        {
            return Err(Halt::Nothing);
        }
        if began.is_some_and(|began| processor_time().saturating_sub(began) > GRAMMAR_TIME) {
            return Err(Halt::Costly);
        }
        self.remember(token);
        Ok(token)
    }

    /// How many of the likeliest tokens the chain must see.
    fn wanted(&self) -> usize {
        match (&self.chain, self.settings.top_k) {
            (None, _) => 1,
            (Some(_), 0) => usize::MAX,
            (Some(_), top_k) => top_k as usize,
        }
    }

    fn remember(&mut self, token: LlamaToken) {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(token);
    }

    /// The tokens whose logits are not as the model has them, in order, each once.
    fn changed(&self, logits: &[f32]) -> Vec<(usize, f32)> {
        let settings = &self.settings;
        let raw = |token: i32| {
            let index = usize::try_from(token).ok()?;
            Some((index, *logits.get(index)?))
        };
        let mut changed: Vec<(usize, f32)> = Vec::new();
        let penalised =
            settings.repetition_penalty != 1.0 || settings.presence_penalty != 0.0 || settings.frequency_penalty != 0.0;
        if penalised {
            changed.extend(self.window.iter().filter_map(|token| raw(token.0)));
        }
        let biased = settings.logit_bias.iter().filter_map(|bias| raw(i32::try_from(bias.token).ok()?));
        changed.extend(biased);
        changed.extend(self.banned.iter().filter_map(|token| raw(token.0)));
        changed.sort_unstable_by_key(|(index, _)| *index);
        changed.dedup_by_key(|(index, _)| *index);
        changed.iter_mut().for_each(|(index, logit)| *logit = self.adjusted(*index, *logit));
        changed
    }

    /// Biases come before penalties, as in llama.cpp.
    fn adjusted(&self, index: usize, raw: f32) -> f32 {
        let settings = &self.settings;
        if self.banned.iter().any(|token| token.0 as usize == index) {
            return f32::NEG_INFINITY;
        }
        let of_token = |bias: &&Bias| bias.token as usize == index;
        let logit = raw + settings.logit_bias.iter().filter(of_token).map(|bias| bias.bias).sum::<f32>();
        let count = self.window.iter().filter(|token| token.0 as usize == index).count();
        if count == 0 {
            return logit;
        }
        let repeated =
            if logit <= 0.0 { logit * settings.repetition_penalty } else { logit / settings.repetition_penalty };
        repeated - count as f32 * settings.frequency_penalty - settings.presence_penalty
    }

    /// Takes the likeliest of the candidates, or draws one.
    fn pick(&mut self, candidates: Vec<LlamaTokenData>) -> Option<LlamaToken> {
        let best = candidates.iter().max_by(|one, other| one.logit().total_cmp(&other.logit()))?.logit();
        if best == f32::NEG_INFINITY {
            return None;
        }
        match &mut self.chain {
            // Of equals the first, as the scan over all of them has it.
            None => candidates.iter().find(|one| one.logit() == best).map(LlamaTokenData::id),
            Some(chain) => {
                let mut array = LlamaTokenDataArray::new(candidates, false);
                array.apply_sampler(chain);
                array.selected_token()
            }
        }
    }

    /// Asks the grammar about one token. Only what passed here may be accepted by it, for llama.cpp aborts otherwise.
    fn grammar_allows(&mut self, token: LlamaToken) -> bool {
        let Some(grammar) = &mut self.grammar else { return true };
        let mut one = LlamaTokenDataArray::new(vec![LlamaTokenData::new(token, 0.0, 0.0)], false);
        one.apply_sampler(grammar);
        one.data.first().is_some_and(|one| one.logit() > f32::NEG_INFINITY)
    }

    /// Draws among what the grammar allows. It is asked about the likeliest first, and about more when too few pass.
    fn pick_by_grammar(&mut self, logits: &[f32], changed: &[(usize, f32)]) -> Option<LlamaToken> {
        let wanted = self.wanted();
        for tries in GRAMMAR_TRIES.into_iter().filter(|tries| *tries >= wanted).chain([usize::MAX]) {
            let grammar = self.grammar.as_mut()?;
            let mut array = LlamaTokenDataArray::new(rank::likeliest(logits, changed, tries), false);
            array.apply_sampler(grammar);
            let mut passed = array.data;
            passed.retain(|one| one.logit() > f32::NEG_INFINITY);
            if passed.len() >= wanted || tries == usize::MAX {
                passed.sort_unstable_by(|one, other| {
                    other.logit().total_cmp(&one.logit()).then(one.id().0.cmp(&other.id().0))
                });
                passed.truncate(wanted);
                return self.pick(passed);
            }
        }
        None
    }
}

/// What this thread has computed so far. Unlike the time of day it does not pass while others have the processor.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// What draws from the candidates: llama.cpp's usual order.
fn chain(settings: &Sampling, seed: u32) -> LlamaSampler {
    let mut samplers = Vec::with_capacity(4);
    if settings.top_p < 1.0 {
        samplers.push(LlamaSampler::top_p(settings.top_p, 1));
    }
    if settings.min_p > 0.0 {
        samplers.push(LlamaSampler::min_p(settings.min_p, 1));
    }
    samplers.push(LlamaSampler::temp(settings.temperature));
    samplers.push(LlamaSampler::dist(seed));
    LlamaSampler::chain(samplers, true)
}

/// Refuses numbers that make no sense.
fn check(settings: &Sampling, vocabulary: i32) -> Result<(), Refusal> {
    let within = |field, value: f32, least: f32, most: f32| {
        let problem = || format!("must be from {least} to {most}");
        (value >= least && value <= most).then_some(()).ok_or_else(|| Refusal::new(field, problem()))
    };
    within("temperature", settings.temperature, 0.0, 100.0)?;
    within("top_p", settings.top_p, 0.0, 1.0)?;
    within("min_p", settings.min_p, 0.0, 1.0)?;
    within("repetition_penalty", settings.repetition_penalty, 0.01, 100.0)?;
    within("presence_penalty", settings.presence_penalty, -100.0, 100.0)?;
    within("frequency_penalty", settings.frequency_penalty, -100.0, 100.0)?;
    if settings.logit_bias.len() > MOST_BIASES {
        return Err(Refusal::new("logit_bias", format!("has more than {MOST_BIASES} entries")));
    }
    for bias in &settings.logit_bias {
        within("logit_bias", bias.bias, -1e6, 1e6)?;
        if i64::from(bias.token) >= i64::from(vocabulary) {
            return Err(Refusal::new("logit_bias", format!("{} is not a token of the model", bias.token)));
        }
    }
    Ok(())
}

/// The logarithm of a token's probability, as the model has it.
pub(super) fn logprob(logits: &[f32], token: LlamaToken) -> f32 {
    let most = rank::largest(logits);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - most).exp())).sum();
    let own = usize::try_from(token.0).ok().and_then(|index| logits.get(index)).copied().unwrap_or(f32::NEG_INFINITY);
    own - most - sum.ln() as f32
}
