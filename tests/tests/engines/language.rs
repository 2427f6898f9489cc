//! A language model in a process of its own: what crosses the socket. What the model itself does is tested where it is built.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use weft_engine::{
    Error, Finish, Generation, Grammar, Model, Piece, Prompt, Sampling, SequenceRequest, Source, Spec, Turn,
};
use weft_engine_native::HostOptions;
use weft_tests::tools::models;
use weft_types::{Deadline, SystemClock};

use crate::{host, load, options, run, until};

/// One thread does not wait for another on a busy machine; and no cancel is overdue while it is slow.
fn slow_options() -> HostOptions {
    HostOptions { threads: 1, cancel_grace: Duration::from_secs(30), ..options() }
}

fn gemma(parameters: &[(&str, &str)]) -> Spec {
    let path = models().join("gemma3/1/model.gguf");
    assert!(path.is_file(), "the language model is not there; run `make models` first");
    let parameters: BTreeMap<String, String> =
        parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Spec { name: "gemma3".to_owned(), source: Source::File(path), max_batch_size: 0, parameters }
}

fn ask(text: &str, max_tokens: u32) -> SequenceRequest {
    SequenceRequest {
        prompt: Prompt::Text(text.to_owned()),
        max_tokens: Some(max_tokens),
        sampling: Sampling::default(),
        stop: Vec::new(),
        ignore_eos: true,
        logprobs: false,
        band: 2,
        deadline: Deadline::after(SystemClock::now(), Duration::from_secs(100)),
    }
}

async fn generate(model: &dyn Model, request: SequenceRequest) -> Result<Generation, Error> {
    model.language().unwrap().generate(request).await
}

/// All pieces as one.
async fn whole(mut pieces: Generation) -> Result<Piece, Error> {
    let mut all = Piece::default();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        assert!(all.end.is_none(), "nothing comes after the end");
        all.text.push_str(&piece.text);
        all.tokens.extend(piece.tokens);
        all.logprobs.extend(piece.logprobs);
        all.end = piece.end;
    }
    Ok(all)
}

async fn answer(model: &dyn Model, request: SequenceRequest) -> Result<Piece, Error> {
    whole(generate(model, request).await?).await
}

#[test]
fn a_sequence_comes_whole_and_its_model_says_how_full_it_is() {
    let host = host(slow_options());
    let model = load(&*host.engine("llama"), &gemma(&[("slots", "2"), ("queue", "3")]));
    let language = model.language().unwrap();
    let capacity = language.capacity();
    assert_eq!((capacity.context_tokens, capacity.slots, capacity.queue), (4096, 2, 3));
    run(async {
        // More than the credit: it is given back while the reader reads.
        let said = answer(&*model, SequenceRequest { logprobs: true, ..ask("Once upon a time", 80) }).await.unwrap();
        let (finish, usage) = said.end.unwrap();
        assert_eq!((finish, usage.prompt_tokens, usage.output_tokens), (Finish::Length, 5, 80));
        assert!(said.tokens.len() == 80 && said.logprobs.len() == 80 && said.text.len() > 80, "{said:?}");
        until(|| language.occupancy().running == 0 && language.occupancy().kv_tokens > 80).await;
        let schema = r#"{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"]}"#;
        let sampling = Sampling { grammar: Some(Grammar::JsonSchema(schema.to_owned())), ..Sampling::default() };
        let json = answer(&*model, SequenceRequest { sampling, ignore_eos: false, ..ask("It is", 40) }).await.unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&json.text).unwrap();
        assert!(parsed["ok"].is_boolean(), "{parsed}");
    });
}

#[test]
fn refusals_come_typed() {
    let host = host(slow_options());
    let model = load(&*host.engine("llama"), &gemma(&[("slots", "1"), ("queue", "0"), ("context", "64")]));
    run(async {
        let long = answer(&*model, ask(&"one ".repeat(200), 1)).await.unwrap_err();
        assert!(matches!(&long, Error::Input { field, .. } if field == "text_input"), "{long}");
        let turns = vec![Turn { role: "user".to_owned(), content: "hello".to_owned() }];
        let chat = answer(&*model, SequenceRequest { prompt: Prompt::Chat(turns), ..ask("", 1) }).await.unwrap_err();
        assert!(matches!(&chat, Error::Input { field, .. } if field == "messages"), "{chat}");
        let deadline = Deadline::after(SystemClock::now(), Duration::ZERO);
        let late = answer(&*model, SequenceRequest { deadline, ..ask("late", 1) }).await.unwrap_err();
        assert!(matches!(late, Error::Status { code: 4, .. }), "{late}");
        let first = generate(&*model, ask("Once upon", 60)).await.unwrap();
        let full = generate(&*model, ask("Once upon", 60)).await.err().unwrap();
        assert!(matches!(full, Error::Full(_)), "{full}");
        assert_eq!(whole(first).await.unwrap().tokens.len(), 60);
    });
}

#[test]
fn dropping_a_generation_frees_its_slot() {
    let host = host(slow_options());
    let model = load(&*host.engine("llama"), &gemma(&[("slots", "1"), ("queue", "1")]));
    let language = model.language().unwrap();
    run(async {
        let mut first = generate(&*model, ask("Once upon a time", 4000)).await.unwrap();
        first.next().await.unwrap().unwrap();
        let second = generate(&*model, ask("The capital of France is", 3)).await.unwrap();
        drop(first);
        assert_eq!(whole(second).await.unwrap().tokens.len(), 3);
        until(|| language.occupancy().running + language.occupancy().waiting == 0).await;
    });
}

#[test]
fn a_reader_that_is_behind_pauses_its_sequence_only() {
    let host = host(slow_options());
    let model = load(&*host.engine("llama"), &gemma(&[("slots", "2")]));
    run(async {
        let slow = generate(&*model, ask("Once upon a time", 60)).await.unwrap();
        // Longer than what the slow one may be ahead, so it has stopped by then.
        assert_eq!(answer(&*model, ask("The capital of France is", 60)).await.unwrap().tokens.len(), 60);
        until(|| model.language().unwrap().occupancy().running == 0).await;
        assert_eq!(model.language().unwrap().occupancy().waiting, 1, "it waits for its reader");
        assert_eq!(whole(slow).await.unwrap().tokens.len(), 60);
    });
}

#[test]
fn readers_of_a_lost_model_are_told() {
    let host = host(slow_options());
    let model = load(&*host.engine("llama"), &gemma(&[]));
    let pid = host.processes().first().unwrap().pid;
    run(async {
        let mut reading = generate(&*model, ask("Once upon a time", 4000)).await.unwrap();
        reading.next().await.unwrap().unwrap();
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
        let error = whole(reading).await.unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "{error}");
        assert!(model.lost().await.contains("signal 9"));
    });
}
