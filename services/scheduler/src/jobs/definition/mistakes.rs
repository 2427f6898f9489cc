//! Every mistake of a request, told together.

use std::fmt::Display;

use weft_types::{Error, Result};

/// How many mistakes are told in full; more are only counted.
const TOLD: usize = 16;
/// Bytes of one mistake, and of the field it is in.
const MAX_BYTES: usize = 256;

/// The mistakes so far.
#[derive(Debug, Default)]
pub(crate) struct Mistakes {
    told: Vec<(String, String)>,
    more: usize,
}

impl Mistakes {
    /// Notes a mistake in a field.
    pub(crate) fn add(&mut self, field: &str, problem: impl Display) {
        if self.told.len() == TOLD {
            self.more += 1;
            return;
        }
        self.told.push((cut(field), cut(&problem.to_string())));
    }

    /// Takes a mistake's text, if there is one.
    pub(crate) fn check<T>(&mut self, field: &str, outcome: Result<T, impl Display>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(problem) => {
                self.add(field, problem);
                None
            }
        }
    }

    /// Fails where there are mistakes: the first field is the error's, the others follow in its text.
    pub(crate) fn result(self) -> Result<()> {
        let mut told = self.told.into_iter();
        let Some((field, mut text)) = told.next() else { return Ok(()) };
        for (field, problem) in told {
            text.push_str(&format!("; {field}: {problem}"));
        }
        if self.more > 0 {
            text.push_str(&format!("; and {} more mistakes", self.more));
        }
        Err(Error::invalid(field, text))
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().find(|(at, letter)| at + letter.len_utf8() > MAX_BYTES) {
        Some((at, _)) => text[..at].to_owned(),
        None => text.to_owned(),
    }
}
