//! One generation over `ModelStreamInfer`, with the moment of each piece.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use weft_tests::calls::{Caller, raw, with_timeout};
use weft_types::SystemClock;

/// The language model, as `make models` calls it.
pub(crate) const GEMMA: &str = "gemma3";
/// Far beyond what any generation here takes.
const LIMIT: Duration = Duration::from_secs(120);

/// What came, and when.
pub(crate) struct Generated {
    pub(crate) began: Instant,
    /// When each piece came, and how many tokens it held.
    pub(crate) pieces: Vec<(Instant, usize)>,
    /// Tokens of the prompt that were not computed, for they were known.
    pub(crate) cached: usize,
}

impl Generated {
    pub(crate) fn tokens(&self) -> usize {
        self.pieces.iter().map(|(_, tokens)| tokens).sum()
    }

    /// From the call to the first piece.
    pub(crate) fn first(&self) -> Duration {
        self.pieces.first().map_or(Duration::MAX, |(at, _)| at.saturating_duration_since(self.began))
    }

    /// The times between pieces that came in a span, per token.
    pub(crate) fn between(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let pairs = self.pieces.iter().zip(self.pieces.iter().skip(1));
        let within = pairs.filter(|((_, _), (at, tokens))| *at >= from && *at <= to && *tokens > 0);
        within.map(|((before, _), (at, _))| at.saturating_duration_since(*before)).collect()
    }
}

/// A request for exactly so many tokens after these; the likeliest ones, so that every run computes the same.
pub(crate) fn request(prompt: &[i32], tokens: usize) -> ModelInferRequest {
    let ids: Bytes = prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut request = raw(GEMMA, ("input_ids", "INT32"), &[i64::try_from(prompt.len()).unwrap_or(i64::MAX)], ids);
    let whole = |number: usize| ParameterChoice::Int64Param(i64::try_from(number).unwrap_or(i64::MAX));
    let parameters = [
        ("max_tokens", whole(tokens)),
        ("ignore_eos", ParameterChoice::BoolParam(true)),
        ("return_num_output_tokens", ParameterChoice::BoolParam(true)),
        ("return_num_cached_tokens", ParameterChoice::BoolParam(true)),
    ];
    for (name, choice) in parameters {
        request.parameters.insert(name.to_owned(), InferParameter { parameter_choice: Some(choice) });
    }
    request
}

/// Tokens that mean nothing: what is measured does not depend on which they are. Another seed is another prompt from its first
/// token on, so that nothing of it is known already.
pub(crate) fn prompt(seed: i32, tokens: usize) -> Vec<i32> {
    (0..tokens)
        .map(|at| 1_000 + (seed * 7_919 + i32::try_from(at).unwrap_or_default() * 31).rem_euclid(50_000))
        .collect()
}

/// The responses to one request.
pub(crate) async fn open(
    caller: &Caller,
    request: ModelInferRequest,
) -> Result<impl Stream<Item = Result<ModelInferResponse>> + use<>> {
    // The stream of requests stays open: its end would end the call before its answers.
    let requests = stream::once(async move { request }).chain(stream::pending());
    let call = caller.inference().model_stream_infer(with_timeout(requests, LIMIT)).await;
    let answers = call.map_err(|status| anyhow!("{:?}: {}", status.code(), status.message()))?.into_inner();
    Ok(answers.map(|answer| {
        let answer = answer.map_err(|status| anyhow!("{:?}: {}", status.code(), status.message()))?;
        ensure!(answer.error_message.is_empty(), "{}", answer.error_message);
        answer.infer_response.context("a response or an error")
    }))
}

/// Generates to the end.
pub(crate) async fn run(caller: Caller, request: ModelInferRequest) -> Result<Generated> {
    let mut generated = Generated { began: SystemClock::now(), pieces: Vec::new(), cached: 0 };
    let mut answers = std::pin::pin!(open(&caller, request).await?);
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        generated.pieces.push((SystemClock::now(), number(&answer, "num_output_tokens")?));
        if is_final(&answer) {
            generated.cached = number(&answer, "num_cached_tokens")?;
            return Ok(generated);
        }
    }
    bail!("the stream ended before its last response")
}

fn number(answer: &ModelInferResponse, name: &'static str) -> Result<usize> {
    let at = answer.outputs.iter().position(|output| output.name == name);
    let contents = at.and_then(|at| answer.raw_output_contents.get(at)).context(name)?;
    let count: [u8; 4] = contents.as_ref().try_into().context("a UINT32")?;
    Ok(u32::from_le_bytes(count) as usize)
}

fn is_final(answer: &ModelInferResponse) -> bool {
    let parameter =
        answer.parameters.get("triton_final_response").and_then(|parameter| parameter.parameter_choice.as_ref());
    matches!(parameter, Some(ParameterChoice::BoolParam(true)))
}
