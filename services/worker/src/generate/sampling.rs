//! Settings of one sequence, by the names that vLLM and the OpenAI API have made common.

use serde_json::Value;
use weft_engine::{Grammar, Sampling};

/// The most stop texts, and the longest, in bytes: what may still become one is held back.
const MAX_STOPS: (usize, usize) = (16, 1024);
/// The most tokens that a bias is given for.
const MAX_BIASES: usize = 1024;
/// The largest bias either way, as the OpenAI API has it: it forbids a token, or forces it.
const MAX_BIAS: f64 = 100.0;
/// The longest grammar or schema, in bytes.
const MAX_GRAMMAR: usize = 64 << 10;

/// What a caller has set.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Settings {
    pub(super) max_tokens: Option<u32>,
    pub(super) sampling: Sampling,
    pub(super) stop: Vec<String>,
    pub(super) ignore_eos: bool,
    pub(super) logprobs: bool,
}

/// What is wrong with a setting.
pub(super) type Problem = String;

impl Settings {
    /// Takes one setting over; `None` when there is none of this name. A null leaves the default, as it does with vLLM.
    pub(super) fn set(&mut self, name: &str, value: &Value) -> Option<Result<(), Problem>> {
        if value.is_null() {
            // Whatever comes of it, the name is known or it is not.
            return Self::default().assign(name, value).map(|_| Ok(()));
        }
        self.assign(name, value)
    }

    fn assign(&mut self, name: &str, value: &Value) -> Option<Result<(), Problem>> {
        let sampling = &mut self.sampling;
        Some(match name {
            "max_tokens" => whole(value, 1).map(|tokens| self.max_tokens = Some(tokens)),
            "temperature" => within(value, 0.0, 100.0).map(|number| sampling.temperature = number),
            "top_k" => top_k(value).map(|number| sampling.top_k = number),
            "top_p" => share(value, false).map(|number| sampling.top_p = number),
            "min_p" => share(value, true).map(|number| sampling.min_p = number),
            "repetition_penalty" => within(value, 0.01, 100.0).map(|number| sampling.repetition_penalty = number),
            "presence_penalty" => within(value, -2.0, 2.0).map(|number| sampling.presence_penalty = number),
            "frequency_penalty" => within(value, -2.0, 2.0).map(|number| sampling.frequency_penalty = number),
            "seed" => whole(value, 0).map(|seed| sampling.seed = Some(seed)),
            "logit_bias" => biases(value).map(|biases| sampling.logit_bias = biases),
            "guided_grammar" => grammar(value).and_then(|text| constrain(sampling, Grammar::Gbnf(text))),
            "guided_json" => schema(value).and_then(|text| constrain(sampling, Grammar::JsonSchema(text))),
            "stop" => stops(value).map(|texts| self.stop = texts),
            "ignore_eos" => flag(value).map(|flag| self.ignore_eos = flag),
            "logprobs" => logprobs(value).map(|flag| self.logprobs = flag),
            _ => return None,
        })
    }
}

fn whole(value: &Value, least: u32) -> Result<u32, Problem> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number >= least);
    number.ok_or_else(|| format!("must be a whole number from {least} to {}", u32::MAX))
}

fn within(value: &Value, least: f64, most: f64) -> Result<f32, Problem> {
    let number = value.as_f64().filter(|number| (least..=most).contains(number));
    number.map(|number| number as f32).ok_or_else(|| format!("must be a number from {least} to {most}"))
}

/// All is 0 here, and -1 to others.
fn top_k(value: &Value) -> Result<u32, Problem> {
    if value.as_i64() == Some(-1) { Ok(0) } else { whole(value, 0) }
}

fn share(value: &Value, or_zero: bool) -> Result<f32, Problem> {
    let number = value.as_f64().filter(|number| (0.0..=1.0).contains(number) && (or_zero || *number > 0.0));
    let least = if or_zero { "0" } else { "above 0" };
    number.map(|number| number as f32).ok_or_else(|| format!("must be a number from {least} to 1"))
}

fn flag(value: &Value) -> Result<bool, Problem> {
    value.as_bool().ok_or_else(|| "must be true or false".to_owned())
}

/// True, or how many alternatives are wanted beside each token's own: there are none but itself.
fn logprobs(value: &Value) -> Result<bool, Problem> {
    match (value.as_bool(), value.as_u64()) {
        (Some(flag), _) => Ok(flag),
        (None, Some(0 | 1)) => Ok(true),
        _ => Err("must be true, false, 0 or 1: alternatives are not told".to_owned()),
    }
}

fn stops(value: &Value) -> Result<Vec<String>, Problem> {
    let (most, longest) = MAX_STOPS;
    let problem = || format!("must be a text, or at most {most} of them, of 1 to {longest} bytes each");
    let texts = match value {
        Value::Array(texts) if texts.len() <= most => texts.as_slice(),
        Value::String(_) => std::slice::from_ref(value),
        _ => return Err(problem()),
    };
    let fits = |text: &&str| (1..=longest).contains(&text.len());
    texts.iter().map(|text| text.as_str().filter(fits).map(str::to_owned).ok_or_else(problem)).collect()
}

/// An object of token ids and what is added to their logits; as a request parameter, the JSON text of one.
fn biases(value: &Value) -> Result<Vec<(u32, f32)>, Problem> {
    let problem =
        || format!("must be an object of at most {MAX_BIASES} token ids with biases from -{MAX_BIAS} to {MAX_BIAS}");
    let parsed: Value;
    let object = match value {
        Value::Object(object) => object,
        Value::String(text) if text.len() <= MAX_GRAMMAR => {
            parsed = serde_json::from_str(text).map_err(|_| problem())?;
            parsed.as_object().ok_or_else(problem)?
        }
        _ => return Err(problem()),
    };
    if object.len() > MAX_BIASES {
        return Err(problem());
    }
    let bias = |(token, bias): (&String, &Value)| {
        let token: u32 = token.parse().map_err(|_| problem())?;
        within(bias, -MAX_BIAS, MAX_BIAS).map(|bias| (token, bias)).map_err(|_| problem())
    };
    object.iter().map(bias).collect()
}

fn grammar(value: &Value) -> Result<String, Problem> {
    let text = value.as_str().filter(|text| (1..=MAX_GRAMMAR).contains(&text.len()));
    text.map(str::to_owned).ok_or_else(|| format!("must be a text of 1 to {MAX_GRAMMAR} bytes"))
}

/// A schema as JSON, or as the JSON text of it.
fn schema(value: &Value) -> Result<String, Problem> {
    let text = match value {
        Value::String(text) if serde_json::from_str::<Value>(text).is_ok_and(|schema| schema.is_object()) => {
            text.clone()
        }
        Value::Object(_) => value.to_string(),
        _ => return Err("must be a JSON schema".to_owned()),
    };
    if text.len() > MAX_GRAMMAR { Err(format!("must be at most {MAX_GRAMMAR} bytes")) } else { Ok(text) }
}

fn constrain(sampling: &mut Sampling, grammar: Grammar) -> Result<(), Problem> {
    if sampling.grammar.is_some() {
        return Err("the output can have one shape only".to_owned());
    }
    sampling.grammar = Some(grammar);
    Ok(())
}
