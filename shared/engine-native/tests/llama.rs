//! The language-model runner in this process, with a real model: run `make models` first.
//!
//! Prompts are short, so that each is computed in one piece however slow the machine is: sums in another order may end in another token.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use weft_engine_native::llama::Runner;
use weft_engine_native::protocol::language::{Bias, Chat, End, Generate, Sampling, Taken, Tokens, Turn, prompt};
use weft_engine_native::protocol::{Event, Failed, Load, command, event};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/gemma3/1/model.gguf");
const PROMPT: &str = "The capital of France is";
/// An engine that is stuck fails the test; a slow machine does not.
const PATIENCE: Duration = Duration::from_secs(120);

/// A loaded model, and what it says.
struct Model {
    runner: Runner,
    events: Receiver<event::Body>,
    next: u64,
}

/// All that came of one sequence.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    end: Option<End>,
    failed: Option<Failed>,
    stopped: bool,
}

impl Answer {
    fn end(&self) -> &End {
        self.end.as_ref().unwrap_or_else(|| panic!("it has not ended well: {self:?}"))
    }

    fn failed(&self) -> (&str, &str, &str) {
        let failed = self.failed.as_ref().unwrap_or_else(|| panic!("it has not failed: {self:?}"));
        (&failed.kind, &failed.field, &failed.problem)
    }
}

fn try_load(parameters: &[(&str, &str)]) -> Result<Model, String> {
    load_file(Path::new(MODEL), parameters)
}

fn load_file(path: &Path, parameters: &[(&str, &str)]) -> Result<Model, String> {
    let (sender, events) = sync_channel(1 << 16);
    let load = Load {
        engine: "llama".into(),
        name: "gemma".into(),
        path: path.to_string_lossy().into_owned().into_bytes(),
        // More threads wait for each other at every node, which takes long on a machine that does other things, too.
        threads: 1,
        parameters: parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ..Load::default()
    };
    let sink = move |event: Event| event.body.into_iter().for_each(|body| drop(sender.send(body)));
    let (runner, loaded) = Runner::load(&load, sink)?;
    assert!(loaded.size_bytes > 200 << 20 && loaded.capacity.is_some());
    Ok(Model { runner, events, next: 1 })
}

fn load(parameters: &[(&str, &str)]) -> Model {
    try_load(parameters).expect("the model is there: run `make models`")
}

/// A greedy request that nobody has to wait for.
fn ask(text: &str, max_tokens: u32) -> Generate {
    Generate {
        prompt: Some(prompt::Body::Text(text.into())),
        max_tokens,
        ignore_eos: true,
        band: 2,
        deadline_us: 600_000_000,
        credit: 100_000,
        ..Generate::default()
    }
}

fn ask_tokens(ids: Vec<u32>, max_tokens: u32) -> Generate {
    Generate { prompt: Some(prompt::Body::Tokens(Tokens { ids })), ..ask("", max_tokens) }
}

/// The usual settings; those of the message are all zero.
fn sampling() -> Sampling {
    Sampling { top_p: 1.0, repetition_penalty: 1.0, ..Sampling::default() }
}

impl Model {
    fn send(&mut self, request: Generate) -> u64 {
        let id = self.next;
        self.next += 1;
        self.runner.send(command::Body::Generate(Generate { id, ..request }));
        id
    }

    /// Adds what comes until `done`.
    fn until(&mut self, answers: &mut BTreeMap<u64, Answer>, done: impl Fn(&BTreeMap<u64, Answer>) -> bool) {
        while !done(answers) {
            match self.events.recv_timeout(PATIENCE).expect("something happens") {
                event::Body::Piece(piece) => {
                    let answer = answers.entry(piece.id).or_default();
                    assert!(
                        answer.end.is_none() && answer.failed.is_none() && !answer.stopped,
                        "nothing after the end"
                    );
                    answer.text.push_str(&piece.text);
                    answer.tokens.extend(piece.tokens);
                    answer.logprobs.extend(piece.logprobs);
                    // How long it waited is no part of the answer.
                    answer.end = piece.end.map(|end| End { queued_us: 0, ..end });
                }
                event::Body::Failed(failed) => {
                    let answer = answers.entry(failed.id).or_default();
                    answer.failed = Some(failed);
                }
                event::Body::Stopped(id) => answers.entry(id).or_default().stopped = true,
                _ => {}
            }
        }
    }

    /// Waits for the ends of these.
    fn ends(&mut self, answers: &mut BTreeMap<u64, Answer>, ids: &[u64]) {
        let over = |answer: &Answer| answer.end.is_some() || answer.failed.is_some() || answer.stopped;
        self.until(answers, |answers| ids.iter().all(|id| answers.get(id).is_some_and(over)));
    }

    /// Asks one question and waits for its answer.
    fn answer(&mut self, request: Generate) -> Answer {
        let (id, mut answers) = (self.send(request), BTreeMap::new());
        self.ends(&mut answers, &[id]);
        answers.remove(&id).expect("it ended")
    }
}

#[test]
fn greedy_answers_hardly_depend_on_company() {
    let request = Generate { logprobs: true, ..ask(PROMPT, 12) };
    let alone = load(&[]).answer(request.clone());
    assert_eq!(alone, load(&[]).answer(request.clone()), "the same again");
    let mut model = load(&[]);
    let ids: Vec<u64> = (0..8).map(|at| model.send(ask(["Once upon", "def f(n):", "2, 4, 6,"][at % 3], 16))).collect();
    let mut answers = BTreeMap::new();
    model.until(&mut answers, |answers| ids.iter().all(|id| answers.get(id).is_some_and(|one| one.tokens.len() > 1)));
    let among = model.answer(request);
    // Sums over batches of another size differ in their last bits, and after some tokens that may tell.
    assert_eq!(alone.tokens[..6], among.tokens[..6]);
    for (one, other) in alone.logprobs.iter().zip(&among.logprobs).take(6) {
        assert!((one - other).abs() < 0.3 && *one <= 0.0 && *one > -20.0, "{one} and {other}");
    }
    assert_eq!((alone.end().prompt_tokens, alone.end().output_tokens, alone.end().finish.as_str()), (6, 12, "length"));
}

#[test]
fn a_cancelled_sequence_frees_its_slot_and_a_full_queue_refuses() {
    let mut model = load(&[("slots", "1"), ("queue", "1")]);
    let (first, second) = (model.send(ask(PROMPT, 4000)), model.send(ask("Once upon", 3)));
    let mut answers = BTreeMap::new();
    model.until(&mut answers, |answers| answers.get(&first).is_some_and(|one| one.tokens.len() > 2));
    let third = model.answer(ask("no room", 1));
    assert_eq!(third.failed().0, "full");
    model.runner.send(command::Body::Cancel(first));
    model.ends(&mut answers, &[first, second]);
    assert!(answers[&first].stopped && answers[&second].end().output_tokens == 3);
    model.runner.send(command::Body::Cancel(first));
    model.until(&mut BTreeMap::new(), |answers| answers.contains_key(&first));
}

#[test]
fn a_slow_reader_pauses_itself_only() {
    let mut model = load(&[("slots", "2")]);
    let slow = model.send(Generate { credit: 5, ..ask(PROMPT, 20) });
    let others = [model.send(ask("Once upon", 30)), model.send(ask("2, 4, 6,", 30))];
    let mut answers = BTreeMap::new();
    model.ends(&mut answers, &others);
    assert_eq!((answers[&slow].tokens.len(), &answers[&slow].end), (5, &None));
    model.runner.send(command::Body::Taken(Taken { id: slow, tokens: 10 }));
    model.until(&mut answers, |answers| answers[&slow].tokens.len() == 15);
    model.runner.send(command::Body::Taken(Taken { id: slow, tokens: 10 }));
    model.ends(&mut answers, &[slow]);
    assert_eq!((answers[&slow].end().output_tokens, answers[&slow].end().preemptions), (20, 0));
}

/// A sequence of band 3 alone, and again with one of band 1 that comes when it has `at` tokens.
fn preempted(parameters: &[(&str, &str)], urgent: Generate, at: usize) -> (Answer, Answer) {
    let request = Generate { band: 3, ..ask(PROMPT, 120) };
    let alone = load(parameters).answer(request.clone());
    let mut model = load(parameters);
    let (first, mut answers) = (model.send(request), BTreeMap::new());
    model.until(&mut answers, |answers| answers.get(&first).is_some_and(|one| one.tokens.len() >= at));
    let second = model.send(Generate { band: 1, ..urgent });
    model.ends(&mut answers, &[second]);
    assert!(answers[&second].end.is_some() && answers[&first].end.is_none(), "the urgent one is first");
    model.ends(&mut answers, &[first]);
    (alone, answers.remove(&first).expect("it ended"))
}

#[test]
fn a_preempted_sequence_goes_on_as_if_nothing_had_happened() {
    let (alone, resumed) = preempted(&[("slots", "1")], ask("Once upon", 5), 10);
    assert_eq!((&alone.text, &alone.tokens), (&resumed.text, &resumed.tokens));
    assert_eq!((alone.end().preemptions, resumed.end().preemptions), (0, 1));
    // Both do not fit: the first is taken out of the cache.
    let small = [("slots", "1"), ("context", "256"), ("kv_tokens", "256"), ("batch_tokens", "64")];
    let long: Vec<u32> = (0..180).map(|at| 1000 + at * 37).collect();
    let (alone, resumed) = preempted(&small, ask_tokens(long.clone(), 5), 80);
    assert_eq!((&alone.text, &alone.tokens), (&resumed.text, &resumed.tokens));
    assert_eq!(resumed.end().preemptions, 1);
    // There is no room beside the cache either: it is computed again, which may differ in the last bits.
    let none = [small.as_slice(), &[("saved_mib", "0")]].concat();
    let (_, again) = preempted(&none, ask_tokens(long, 5), 80);
    assert_eq!((again.end().output_tokens, again.end().preemptions), (120, 1));
}

#[test]
fn a_prefix_is_computed_once() {
    let mut model = load(&[("slots", "2")]);
    let text =
        "Paris is the capital of France. Rome is the capital of Italy. Madrid is the capital of Spain. The capital of";
    let with = |tail: &str| Generate { logprobs: true, ..ask(&format!("{text} {tail} is"), 3) };
    let first = model.answer(with("Germany"));
    let again = model.answer(with("Germany"));
    let all = first.end().prompt_tokens;
    assert_eq!((first.end().cached_tokens, again.end().cached_tokens, all > 20), (0, all - 1, true));
    assert_eq!(first.tokens[0], again.tokens[0]);
    assert!((first.logprobs[0] - again.logprobs[0]).abs() < 0.3, "{first:?} and {again:?}");
    assert_eq!(model.answer(with("Portugal")).end().cached_tokens, all - 2);
    // Of two at once, one computes the prefix and the other waits for it.
    let ask = |tail: u32| ask_tokens((0..60).map(|at| 9000 + at * 41).chain([tail]).collect(), 40);
    let ids = [model.send(ask(1)), model.send(ask(2))];
    let mut answers = BTreeMap::new();
    model.ends(&mut answers, &ids);
    assert!(ids.iter().any(|id| answers[id].end().cached_tokens > 0), "{answers:?}");
}

#[test]
fn more_sequences_than_memory_all_end() {
    let parameters = [("slots", "4"), ("context", "128"), ("kv_tokens", "128"), ("batch_tokens", "32")];
    let mut model = load(&parameters);
    let ids: Vec<u64> = (0..10).map(|at| model.send(Generate { band: 1 + at % 3, ..ask(PROMPT, 60) })).collect();
    let mut answers = BTreeMap::new();
    model.ends(&mut answers, &ids);
    assert!(ids.iter().all(|id| answers[id].end().output_tokens == 60));
}

#[test]
fn stop_texts_end_an_answer() {
    let mut model = load(&[]);
    let whole = model.answer(ask(PROMPT, 30));
    let stop: String = whole.text.chars().skip(20).take(8).collect();
    let cut = whole.text.find(&stop).expect("a part of it");
    let request = Generate { stop: vec!["never that".into(), stop], ..ask(PROMPT, 30) };
    let mut fresh = load(&[]);
    let stopped = fresh.answer(request);
    assert_eq!((stopped.text.as_str(), stopped.end().finish.as_str()), (&whole.text[..cut], "stop"));
    let many = Generate { stop: vec!["x".into(); 17], ..ask(PROMPT, 1) };
    assert_eq!(fresh.answer(many).failed().1, "stop");
}

#[test]
fn sampling_does_as_it_is_told() {
    let mut model = load(&[]);
    let drawn = |model: &mut Model, seed| {
        let sampling = Sampling { temperature: 1.0, top_k: 40, top_p: 0.95, seed, ..sampling() };
        model.answer(Generate { sampling: Some(sampling), ..ask(PROMPT, 16) }).tokens
    };
    // The first fills the cache, so that all others are computed alike.
    drawn(&mut model, None);
    let seven = drawn(&mut model, Some(7));
    assert_eq!(seven, drawn(&mut model, Some(7)));
    assert_ne!(seven, drawn(&mut model, Some(8)));
    let only = Sampling { logit_bias: vec![Bias { token: 5000, bias: 1e5 }], ..sampling() };
    let answer = model.answer(Generate { sampling: Some(only), ..ask(PROMPT, 4) });
    assert_eq!(answer.tokens, [5000; 4]);
    let penalised =
        Sampling { presence_penalty: 100.0, logit_bias: vec![Bias { token: 5000, bias: 90.0 }], ..sampling() };
    let answer = model.answer(Generate { sampling: Some(penalised), ..ask(PROMPT, 4) });
    assert_eq!(answer.tokens.iter().filter(|token| **token == 5000).count(), 1, "{:?}", answer.tokens);
    // Token 1 is the model's end of text.
    let end = Sampling { logit_bias: vec![Bias { token: 1, bias: 1e5 }], ..sampling() };
    let ended = model.answer(Generate { sampling: Some(end.clone()), ignore_eos: false, ..ask(PROMPT, 4) });
    assert_eq!((ended.end().finish.as_str(), ended.end().output_tokens), ("stop", 0));
    let goes_on = model.answer(Generate { sampling: Some(end), ..ask(PROMPT, 4) });
    assert_eq!((goes_on.end().finish.as_str(), goes_on.end().output_tokens), ("length", 4));
}

#[test]
fn grammars_are_followed() {
    let mut model = load(&[]);
    let mut told = |sampling| {
        let answer = model.answer(Generate { sampling: Some(sampling), ignore_eos: false, ..ask(PROMPT, 60) });
        assert_eq!(answer.end().finish, "stop", "{answer:?}");
        answer.text
    };
    let gbnf = |text: &str| Sampling { gbnf: text.into(), ..sampling() };
    assert!(["yes", "no"].contains(&told(gbnf(r#"root ::= "yes" | "no""#)).as_str()));
    let drawn = Sampling { temperature: 1.5, seed: Some(3), ..gbnf("root ::= [0-9] [0-9] [0-9]") };
    let digits = told(drawn);
    assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{digits}");
    let schema =
        r#"{"type":"object","properties":{"size":{"enum":[1,2]},"ok":{"type":"boolean"}},"required":["size","ok"]}"#;
    let json: String = told(Sampling { json_schema: schema.into(), ..sampling() }).split_whitespace().collect();
    let pairs = json.strip_prefix('{').and_then(|json| json.strip_suffix('}')).unwrap_or_else(|| panic!("{json}"));
    let (size, ok) = pairs.split_once(',').expect("two");
    assert!(["\"size\":1", "\"size\":2"].contains(&size) && ["\"ok\":true", "\"ok\":false"].contains(&ok), "{json}");
}

#[test]
fn a_grammar_that_takes_too_long_ends_its_own_sequence_only() {
    let mut model = load(&[("slots", "2")]);
    let other = model.send(ask("Once upon", 60));
    // With each letter there are twice as many ways to go on. The bias has the model say a single one again and again.
    let one = Sampling { gbnf: "root ::= \"a\"".into(), ..sampling() };
    let letter = model.answer(Generate { sampling: Some(one), ..ask(PROMPT, 1) }).tokens[0];
    let sampling = Sampling {
        gbnf: "root ::= x | y\nx ::= \"a\" root \"b\"\ny ::= [a-z] root \"c\" | \"d\"".into(),
        logit_bias: vec![Bias { token: letter, bias: 1e5 }],
        ..sampling()
    };
    let costly = model.answer(Generate { sampling: Some(sampling), ..ask(PROMPT, 1000) });
    assert_eq!((costly.failed().0, costly.failed().1), ("input", "grammar"), "{costly:?}");
    let (next, mut answers) = (model.send(ask(PROMPT, 3)), BTreeMap::new());
    model.ends(&mut answers, &[next]);
    assert!(answers.get(&other).is_none_or(|other| other.failed.is_none()), "{answers:?}");
}

#[test]
fn grammars_can_be_switched_off() {
    let mut model = load(&[("grammars", "off")]);
    let gbnf = Sampling { gbnf: "root ::= \"a\"".into(), ..sampling() };
    let schema = Sampling { json_schema: "{}".into(), ..sampling() };
    for (field, sampling) in [("grammar", gbnf), ("json_schema", schema)] {
        let answer = model.answer(Generate { sampling: Some(sampling), ..ask(PROMPT, 4) });
        assert_eq!((answer.failed().0, answer.failed().1), ("input", field));
    }
    assert_eq!(model.answer(Generate { sampling: Some(sampling()), ..ask(PROMPT, 2) }).end().output_tokens, 2);
}

/// Requests that cannot be served, and the field at fault.
fn bad_requests() -> Vec<(&'static str, Generate)> {
    let with = |change: fn(&mut Sampling)| {
        let mut sampling = sampling();
        change(&mut sampling);
        Generate { sampling: Some(sampling), ..ask(PROMPT, 4) }
    };
    let chat = |turns| Generate { prompt: Some(prompt::Body::Chat(Chat { turns })), ..ask("", 4) };
    let gbnf = |text: &str| Generate { sampling: Some(Sampling { gbnf: text.into(), ..sampling() }), ..ask(PROMPT, 4) };
    let schema =
        |text: &str| Generate { sampling: Some(Sampling { json_schema: text.into(), ..sampling() }), ..ask(PROMPT, 4) };
    vec![
        ("text_input", ask(&"one ".repeat(600), 4)),
        ("text_input", ask(&"a".repeat(1 << 20), 4)),
        ("text_input", Generate { prompt: None, ..ask("", 4) }),
        ("token_ids", ask_tokens(vec![1; 300], 4)),
        ("token_ids", ask_tokens(vec![], 4)),
        ("token_ids", ask_tokens(vec![400_000], 4)),
        ("token_ids", ask_tokens(vec![u32::MAX], 4)),
        ("messages", chat(vec![])),
        // The file of this model has no template.
        ("messages", chat(vec![Turn { role: "user".into(), content: "hello".into() }])),
        ("messages", chat(vec![Turn { role: "us\0er".into(), content: "hello".into() }])),
        ("temperature", with(|sampling| sampling.temperature = f32::NAN)),
        ("temperature", with(|sampling| sampling.temperature = -1.0)),
        ("top_p", with(|sampling| sampling.top_p = 1.5)),
        ("min_p", with(|sampling| sampling.min_p = -0.5)),
        ("repetition_penalty", with(|sampling| sampling.repetition_penalty = 0.0)),
        ("presence_penalty", with(|sampling| sampling.presence_penalty = f32::INFINITY)),
        ("frequency_penalty", with(|sampling| sampling.frequency_penalty = f32::NAN)),
        ("logit_bias", with(|sampling| sampling.logit_bias = vec![Bias { token: 262_200, bias: 1.0 }])),
        ("logit_bias", with(|sampling| sampling.logit_bias = vec![Bias { token: 1, bias: f32::NAN }])),
        ("grammar", gbnf("nonsense")),
        ("grammar", gbnf("start ::= \"a\"")),
        ("grammar", gbnf("root ::= missing")),
        ("grammar", gbnf("root ::= root \"a\"")),
        ("grammar", gbnf("root ::= \"a")),
        ("grammar", gbnf("root ::= [a-")),
        ("grammar", gbnf("root ::= (\"a\"")),
        ("grammar", gbnf("root ::= \"a\"{5000}")),
        ("grammar", gbnf("root ::= \"\\x\"")),
        ("grammar", gbnf("root ::= <[999999999999]>")),
        ("grammar", gbnf(&format!("root ::= {}", "(".repeat(1000)))),
        ("json_schema", schema("{")),
        ("json_schema", schema("\"text\"")),
        ("json_schema", schema(r#"{"type":"nonsense"}"#)),
        ("json_schema", schema(&"[".repeat(1000))),
    ]
}

#[test]
fn what_cannot_be_served_is_refused_and_harms_nobody() {
    let mut model = load(&[("context", "256")]);
    for (at, (field, request)) in bad_requests().into_iter().enumerate() {
        let answer = model.answer(request);
        assert_eq!(answer.failed.as_ref().map(|_| answer.failed().1), Some(field), "request {at}: {answer:?}");
        assert_eq!(answer.failed().0, "input");
    }
    let too_long = model.answer(ask_tokens(vec![1; 300], 1));
    assert_eq!(too_long.failed().2, "has 300 tokens; the context has room for 256");
    let full = model.answer(ask_tokens((0..256).map(|at| 1000 + at * 37).collect(), 0));
    assert_eq!((full.end().output_tokens, full.end().finish.as_str()), (1, "length"));
    assert_eq!(model.answer(ask(PROMPT, 3)).end().output_tokens, 3);
}

#[test]
fn nobody_waits_for_what_has_expired() {
    let mut model = load(&[("slots", "1")]);
    let late = model.answer(Generate { deadline_us: 0, ..ask(PROMPT, 3) });
    assert_eq!(late.failed().0, "expired");
    // Its reader is behind, so nothing but the deadline can end it.
    let paused = model.answer(Generate { deadline_us: 50_000, credit: 0, ..ask(PROMPT, 3) });
    assert_eq!((paused.failed().0, paused.tokens.len()), ("expired", 0));
    assert_eq!(model.answer(ask(PROMPT, 3)).end().output_tokens, 3);
}

/// The model's file with further keys at the beginning of its table. Tensors are aligned to 32 bytes, so what is inserted is
/// filled up to that.
fn with_keys(keys: &[(&str, &str)], is_causal: bool) -> tempfile::NamedTempFile {
    let mut bytes = std::fs::read(MODEL).expect("the model is there: run `make models`");
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let string = |key: &str, value: &str| [text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat();
    let mut inserted: Vec<u8> = keys.iter().flat_map(|(key, value)| string(key, value)).collect();
    let flag = [text("gemma3.attention.causal"), 7u32.to_le_bytes().to_vec(), vec![u8::from(is_causal)]].concat();
    inserted.extend(flag);
    let fill = 32 - (inserted.len() + string("filled.up", "").len()) % 32;
    inserted.extend(string("filled.up", &"-".repeat(fill)));
    let added = keys.len() as u64 + 2;
    let count = u64::from_le_bytes(bytes[16..24].try_into().expect("eight")) + added;
    bytes[16..24].copy_from_slice(&count.to_le_bytes());
    bytes.splice(24..24, inserted);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("written");
    file
}

#[test]
fn a_conversation_is_laid_out_as_the_file_says() {
    let template = "{% for message in messages %}<start_of_turn>{{ message['role'] }}{% endfor %}";
    let file = with_keys(&[("tokenizer.chat_template", template)], true);
    let mut model = load_file(file.path(), &[]).expect("loaded");
    let turns = |content: &str| vec![Turn { role: "user".into(), content: content.into() }];
    let chat = |content| Generate { prompt: Some(prompt::Body::Chat(Chat { turns: turns(content) })), ..ask("", 8) };
    let answer = model.answer(chat("Hello"));
    // The layout has a token for each of: begin, start of turn, user, new line, the word, end of turn, new line, start of turn,
    // model, new line.
    assert_eq!((answer.end().prompt_tokens, answer.end().output_tokens), (10, 8), "{answer:?}");
    assert_eq!(model.answer(chat("")).end().prompt_tokens, 9);
}

#[test]
fn what_makes_embeddings_is_refused() {
    let file = with_keys(&[], false);
    let problem = load_file(file.path(), &[]).err().expect("refused");
    assert!(problem.contains("embeddings"), "{problem}");
}

#[test]
fn what_cannot_be_loaded_is_told() {
    let problem = try_load(&[("slots", "none")]).err().expect("refused");
    assert!(problem.contains("`slots`"), "{problem}");
    let load = Load { path: b"/nowhere/model.gguf".to_vec(), threads: 1, ..Load::default() };
    assert!(Runner::load(&load, |_| {}).is_err());
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), b"GGUF, but nothing else").expect("written");
    let load = Load { path: file.path().to_string_lossy().into_owned().into_bytes(), threads: 1, ..Load::default() };
    let problem = Runner::load(&load, |_| {}).expect_err("refused");
    let told = problem.strip_prefix("llama.cpp cannot load the file: ").unwrap_or_default();
    assert!(!told.is_empty() && !problem.contains(&*file.path().to_string_lossy()), "{problem}");
}
