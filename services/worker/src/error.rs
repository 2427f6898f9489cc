//! How a call can fail here: Weft's closed set, or a status that the model chose itself.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use weft_proto::{DOMAIN, status_of};
use weft_types::{Error, Reason};

/// The most characters of a model's own message that a caller sees.
const MESSAGE_LIMIT: usize = 512;

/// A failed call. Cloned to every caller of a failed batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// One of Weft's own reasons.
    #[error(transparent)]
    Weft(#[from] Error),
    /// A gRPC code and text of the model's choosing.
    #[error("{message}")]
    Model {
        /// The gRPC code; never OK.
        code: Code,
        /// The text.
        message: String,
    },
}

impl Failure {
    /// The failure of a model whose engine panicked; the panic's text goes to the log only.
    pub(crate) fn panicked() -> Self {
        Error::new(Reason::ModelFailed, "the model's runtime failed").into()
    }

    /// The text for a caller that sees no code: never empty, which would read as a success.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Model { code, message } if message.is_empty() => format!("{code:?}"),
            failure => failure.to_string(),
        }
    }

    /// The status for the caller.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Weft(error) => status_of(error),
            Self::Model { code, message } => {
                let details = ErrorDetails::with_error_info(Reason::ModelFailed.as_str(), DOMAIN, []);
                Status::with_error_details(*code, message, details)
            }
        }
    }
}

impl From<weft_engine::Error> for Failure {
    fn from(error: weft_engine::Error) -> Self {
        match error {
            weft_engine::Error::Input { field, problem } => {
                Error::invalid(presentable(&field), presentable(&problem)).into()
            }
            weft_engine::Error::Status { code, message } => Self::Model {
                // "It failed with OK" would reach the caller as a success without an answer.
                code: Some(Code::from_i32(code)).filter(|code| *code != Code::Ok).unwrap_or(Code::Unknown),
                message: presentable(&message),
            },
            weft_engine::Error::Full(problem) => Error::new(Reason::QueueFull, presentable(&problem)).into(),
            error @ (weft_engine::Error::Load(_) | weft_engine::Error::Run(_) | weft_engine::Error::Lost(_)) => {
                Error::new(Reason::ModelFailed, presentable(&error.to_string())).into()
            }
        }
    }
}

/// Bounds a foreign text and strips what could forge a log line or a header.
pub(crate) fn presentable(text: &str) -> String {
    text.chars().take(MESSAGE_LIMIT).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_own_code_is_kept_and_its_text_is_bounded() {
        let failure =
            Failure::from(weft_engine::Error::Status { code: 10, message: format!("a\nb{}", "x".repeat(10_000)) });
        let status = failure.status();
        assert_eq!(status.code(), Code::Aborted);
        assert!(status.message().starts_with("a bx") && status.message().len() == MESSAGE_LIMIT);
    }

    #[test]
    fn a_model_cannot_fail_with_ok() {
        let failure = Failure::from(weft_engine::Error::Status { code: 0, message: String::new() });
        assert_eq!(failure.status().code(), Code::Unknown);
    }

    #[test]
    fn a_failure_without_a_text_is_told_by_its_code() {
        let failure = |message: &str| Failure::from(weft_engine::Error::Status { code: 5, message: message.into() });
        assert_eq!(failure("").message(), "NotFound");
        assert_eq!(failure("no such token").message(), "no such token");
    }

    #[test]
    fn a_bad_input_names_its_field() {
        let failure =
            Failure::from(weft_engine::Error::Input { field: "inputs[0]".into(), problem: "too long".into() });
        assert!(matches!(&failure, Failure::Weft(error) if error.field() == Some("inputs[0]")));
        assert_eq!(failure.status().code(), Code::InvalidArgument);
    }
}
