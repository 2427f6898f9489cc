//! What has been generated becomes tensors.

use weft_engine::{Piece, Tensor};

use super::ports::Output;
use super::request::Form;

/// What a request's responses hold, and what has been told so far.
pub(super) struct Telling {
    outputs: Vec<Output>,
    echo: Option<String>,
    logprob: f64,
}

impl Telling {
    pub(super) fn new(form: Form) -> Self {
        Self { outputs: form.outputs, echo: form.echo, logprob: 0.0 }
    }

    /// The outputs of one response. What is known at the end only is absent before.
    pub(super) fn tensors(&mut self, piece: &Piece) -> Vec<Tensor> {
        self.logprob += piece.logprobs.iter().copied().map(f64::from).sum::<f64>();
        let echo = self.echo.take().unwrap_or_default();
        self.outputs.iter().filter_map(|output| tensor(*output, piece, (&echo, self.logprob))).collect()
    }
}

fn tensor(output: Output, piece: &Piece, (echo, logprob): (&str, f64)) -> Option<Tensor> {
    let name = output.name();
    let usage = piece.end.map(|(_, usage)| usage);
    let count = |count: u32| Tensor::of(name, &[1], &[count]);
    Some(match output {
        Output::Text if echo.is_empty() => Tensor::of_bytes(name, &[&piece.text]),
        Output::Text => Tensor::of_bytes(name, &[[echo, &piece.text].concat()]),
        Output::FinishReason => {
            // vLLM's backend spells the absent reason as Python does.
            Tensor::of_bytes(name, &[piece.end.map_or("None", |(finish, _)| finish.as_str())])
        }
        Output::CumulativeLogprob => Tensor::of(name, &[1], &[logprob as f32]),
        Output::Logprobs => Tensor::of(name, &[piece.logprobs.len()], &piece.logprobs),
        Output::InputTokens => count(usage?.prompt_tokens),
        Output::CachedTokens => count(usage?.cached_tokens),
        Output::NewTokens => count(u32::try_from(piece.tokens.len()).unwrap_or(u32::MAX)),
        Output::TokenIds => {
            let ids: Vec<i32> = piece.tokens.iter().map(|token| i32::try_from(*token).unwrap_or(i32::MAX)).collect();
            Tensor::of(name, &[ids.len()], &ids)
        }
    })
}

/// Adds a piece to those before it.
pub(super) fn join(whole: &mut Piece, piece: Piece) {
    whole.text.push_str(&piece.text);
    whole.tokens.extend(piece.tokens);
    whole.logprobs.extend(piece.logprobs);
    whole.end = piece.end;
}
