//! Grammars: what llama.cpp cannot digest is refused before it sees it, for its parser recurses and its checks abort.

use std::fs::File;
use std::sync::{Mutex, PoisonError};

use llama_cpp_2::json_schema_to_grammar;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use tracing::subscriber::NoSubscriber;

use super::prompt::Refusal;

/// Bytes of a grammar or a schema. Larger ones take so long to compile that others would wait.
const MOST_BYTES: usize = 32 * 1024;
/// Nesting, for the parsers recurse.
const MOST_NESTING: usize = 64;

/// Compiles a grammar in llama.cpp's notation; `None` when the text is empty.
pub(super) fn from_gbnf(model: &LlamaModel, text: &str) -> Result<Option<LlamaSampler>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let refuse = |problem: &str| Refusal::new("grammar", problem);
    digestible(text, '(', ')').map_err(|problem| refuse(&problem))?;
    if !text.lines().any(is_root) {
        return Err(refuse("has no rule named `root`"));
    }
    let sampler = quietly(|| LlamaSampler::grammar(model, text, "root"));
    sampler.map(Some).map_err(|_| refuse("is not a grammar that the engine can read"))
}

fn is_root(line: &str) -> bool {
    line.trim_start().strip_prefix("root").is_some_and(|rest| rest.trim_start().starts_with("::="))
}

/// Compiles a JSON schema; `None` when the text is empty.
pub(super) fn from_schema(model: &LlamaModel, text: &str) -> Result<Option<LlamaSampler>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let refuse = |problem: &str| Refusal::new("json_schema", problem);
    digestible(text, '{', '}').and_then(|()| digestible(text, '[', ']')).map_err(|problem| refuse(&problem))?;
    let grammar = quietly(|| json_schema_to_grammar(text))
        .map_err(|_| refuse("is not a JSON schema that the engine can follow"))?;
    let sampler = quietly(|| LlamaSampler::grammar(model, &grammar, "root"));
    sampler.map(Some).map_err(|_| refuse("leads to a grammar that the engine cannot read"))
}

/// llama.cpp prints a grammar that it cannot read as a whole, past its own log, and so patterns that it cannot follow. They are a
/// caller's: standard error leads nowhere meanwhile, nor does the log.
fn quietly<T>(compile: impl FnOnce() -> T) -> T {
    // One model has a thread and a process of its own; where several share one, they must not take each other's for the real one.
    static SILENCE: Mutex<()> = Mutex::new(());
    let _alone = SILENCE.lock().unwrap_or_else(PoisonError::into_inner);
    // It cannot be written to, and need not be: the process may not open files for writing any more.
    let nowhere = File::open("/dev/null");
    let real = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3);
    if let (Ok(nowhere), Ok(_)) = (&nowhere, &real) {
        let _ = rustix::stdio::dup2_stderr(nowhere);
    }
    let compiled = tracing::subscriber::with_default(NoSubscriber::default(), compile);
    if let Ok(real) = &real {
        let _ = rustix::stdio::dup2_stderr(real);
    }
    compiled
}

/// Checks size and nesting. Brackets in quotes count, too: that errs on the strict side.
fn digestible(text: &str, open: char, close: char) -> Result<(), String> {
    if text.len() > MOST_BYTES {
        return Err(format!("has {} bytes; the most are {MOST_BYTES}", text.len()));
    }
    if text.contains('\0') {
        return Err("has a zero byte".to_owned());
    }
    let mut depth = 0usize;
    for letter in text.chars() {
        if letter == open {
            depth += 1;
        } else if letter == close {
            depth = depth.saturating_sub(1);
        }
        if depth > MOST_NESTING {
            return Err(format!("is nested more than {MOST_NESTING} deep"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_send_is_not_printed() {
        let to = || std::fs::read_link("/proc/self/fd/2").expect("there");
        assert_eq!(quietly(to), std::path::Path::new("/dev/null"));
    }

    #[test]
    fn what_is_too_large_or_too_deep_does_not_reach_the_parser() {
        let deep = |depth| format!("root ::= {}\"a\"{}", "(".repeat(depth), ")".repeat(depth));
        assert!(digestible(&deep(64), '(', ')').is_ok());
        assert!(digestible(&deep(65), '(', ')').is_err());
        assert!(digestible(&"a".repeat(40_000), '(', ')').is_err());
        assert!(digestible("root ::= \"\0\"", '(', ')').is_err());
        assert!(digestible(&"() ".repeat(100), '(', ')').is_ok());
    }
}
