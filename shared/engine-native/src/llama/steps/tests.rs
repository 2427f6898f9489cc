//! With a real model (`make models`), step by step: what comes together is decided here, not by the speed of threads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::llama::interrupt::Interrupt;
use crate::llama::log::Log;
use crate::llama::model;
use crate::protocol::language::{Generate, Taken, Tokens, prompt};
use crate::protocol::{Load, command};

/// How far the logarithms of one token's probability are from each other where the same was computed in other batches: activations are
/// quantized, and what memory lies at another address is summed in another order. Seen: up to 0.4 in a process, with the same tokens.
const NOISE: f32 = 1.0;

/// What came, by sequence: tokens, how many were shared when it ended, and what it failed with.
#[derive(Debug, Default)]
struct Told {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    cached: Option<u32>,
    failed: Option<(String, String)>,
}

/// A loaded model, and what it has said.
struct Bench<'a, 'b> {
    steps: &'b mut Steps<'a>,
    said: &'b RefCell<Vec<event::Body>>,
    next: u64,
}

fn with(parameters: &[(&str, &str)], test: impl FnOnce(&mut Bench<'_, '_>)) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/gemma3/1/model.gguf");
    let load = Load {
        path: path.to_string_lossy().into_owned().into_bytes(),
        threads: 1,
        parameters: parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ..Load::default()
    };
    let (model, settings) = model::open(&load, &Log::default()).expect("the model is there: run `make models`");
    let interrupt = Interrupt::default();
    let context = model::context(&model, &settings, &interrupt, &Log::default()).expect("a context");
    let said = RefCell::new(Vec::new());
    let sink = |event: Event| said.borrow_mut().extend(event.body);
    let mut steps = Steps::prepare(&model, (context, &interrupt), &settings, &sink).expect("prepared");
    test(&mut Bench { steps: &mut steps, said: &said, next: 1 });
}

fn ask(tokens: impl IntoIterator<Item = u32>, max_tokens: u32) -> Generate {
    Generate {
        prompt: Some(prompt::Body::Tokens(Tokens { ids: tokens.into_iter().collect() })),
        max_tokens,
        ignore_eos: true,
        logprobs: true,
        band: 2,
        deadline_us: 600_000_000,
        credit: 100_000,
        ..Generate::default()
    }
}

/// Twenty tokens that no other number has.
fn prompt(number: u32) -> impl Iterator<Item = u32> {
    (0..20).map(move |at| 5_000 + number * 211 + at * 37)
}

impl Bench<'_, '_> {
    fn send(&mut self, request: Generate) -> u64 {
        let id = self.next;
        self.next += 1;
        self.command(command::Body::Generate(Generate { id, ..request }));
        id
    }

    fn command(&mut self, command: command::Body) {
        self.steps.command(Sent { at: SystemClock::now(), command });
    }

    /// A step in whose course a request of this band comes.
    fn disturbed(&mut self, band: u64) {
        self.steps.interrupt.arrived(band);
        self.steps.step();
        self.steps.interrupt.taken();
    }

    /// Steps until nobody can, and tells what has come since the beginning.
    fn finish(&mut self) -> BTreeMap<u64, Told> {
        while !self.steps.arrivals.is_empty() || self.steps.sequences.iter().any(|one| !one.paused()) {
            self.steps.read();
            self.steps.step();
        }
        self.told()
    }

    fn told(&self) -> BTreeMap<u64, Told> {
        let mut all: BTreeMap<u64, Told> = BTreeMap::new();
        for body in self.said.borrow().iter() {
            match body {
                event::Body::Piece(piece) => {
                    let told = all.entry(piece.id).or_default();
                    told.tokens.extend(&piece.tokens);
                    told.logprobs.extend(&piece.logprobs);
                    told.cached = piece.end.as_ref().map(|end| end.cached_tokens);
                }
                event::Body::Failed(failed) => {
                    all.entry(failed.id).or_default().failed = Some((failed.kind.clone(), failed.problem.clone()));
                }
                _ => {}
            }
        }
        all
    }
}

#[test]
fn what_is_shared_is_the_right_one_although_numbers_are_short() {
    // A cache that is so large that all prefixes may stay in it.
    with(&[("slots", "2"), ("kv_tokens", "16384")], |bench| {
        let numbers = u32::try_from(bench.steps.memory.numbers()).expect("few");
        let first = bench.send(ask(prompt(0), 2));
        for number in 1..numbers {
            bench.send(ask(prompt(number), 1));
        }
        bench.finish();
        assert_eq!(bench.steps.memory.numbers(), 0, "each is held by a prefix");
        // Both begin in the same step. The first to get a number must not take it from the source of the second, which is
        // the prefix that was longest of no use.
        let newest = bench.send(ask(prompt(numbers - 1).chain([77]), 1));
        let oldest = bench.send(ask(prompt(0), 2));
        let told = bench.finish();
        assert_eq!((told[&newest].cached, told[&oldest].cached), (Some(20), Some(19)));
        assert_eq!(told[&oldest].tokens, told[&first].tokens);
        assert!((told[&oldest].logprobs[0] - told[&first].logprobs[0]).abs() < NOISE);
    });
}

#[test]
fn a_source_that_is_gone_is_not_shared() {
    with(&[("slots", "2")], |bench| {
        let first = bench.send(ask(prompt(0), 2));
        let other = bench.send(ask(prompt(1), 1));
        bench.finish();
        let again = bench.send(ask(prompt(0), 2));
        bench.steps.read();
        let sources: Vec<_> = bench.steps.sequences.iter().map(|one| bench.steps.source(one)).collect();
        let plan = bench.steps.plan(&sources);
        assert!(sources[0].is_some(), "{other} is no source of it");
        // Somebody else has its number by then.
        bench.steps.memory.drop_prefix(sources[0].expect("there").key);
        let stranger = bench.send(ask(prompt(2), 1));
        bench.steps.read();
        let stranger = bench.steps.sequences.iter_mut().find(|one| one.id == stranger).expect("queued");
        bench.steps.memory.number(stranger).expect("a number");
        bench.steps.rearrange(&plan, &sources);
        let told = bench.finish();
        assert_eq!((told[&again].cached, &told[&again].tokens), (Some(0), &told[&first].tokens));
    });
}

/// What is kept outside of the cache is as good as what is in it, takes no room there, and is bounded.
#[test]
fn prefixes_are_kept_aside() {
    with(&[("slots", "2"), ("kv_tokens", "4096"), ("saved_mib", "4")], |bench| {
        let long = || (0..200).map(|at| 700 + at * 3);
        let first = bench.send(ask(long(), 3));
        bench.finish();
        let inside = |bench: &Bench<'_, '_>| bench.steps.memory.prefixes().iter().map(|one| one.id).collect::<Vec<_>>();
        let [key] = inside(bench)[..] else { panic!("one is kept in the cache") };
        bench.steps.memory.evict(key);
        assert_eq!((inside(bench), bench.steps.memory.used()), (vec![], 0));
        // One goes on from all of it, the other from its first half only.
        let again = bench.send(ask(long(), 3));
        let half = bench.send(ask(long().take(100).chain([5, 6, 7]), 1));
        let told = bench.finish();
        assert_eq!((told[&again].cached, told[&half].cached), (Some(199), Some(100)));
        assert_eq!(told[&again].tokens, told[&first].tokens);
        assert!((told[&again].logprobs[0] - told[&first].logprobs[0]).abs() < NOISE);
        // More than there is room for: what was longest of no use is forgotten.
        for number in 0..4 {
            bench.send(ask(long().map(|token| token + 1000 + number), 1));
            bench.finish();
            inside(bench).into_iter().for_each(|key| bench.steps.memory.evict(key));
        }
        let forgotten = bench.send(ask(long(), 1));
        let newest = bench.send(ask(long().map(|token| token + 1003), 1));
        let told = bench.finish();
        assert_eq!((told[&forgotten].cached, told[&newest].cached), (Some(0), Some(199)));
    });
}

#[test]
fn more_readers_may_be_behind_than_there_are_numbers() {
    with(&[("slots", "1")], |bench| {
        let numbers = u32::try_from(bench.steps.memory.numbers()).expect("few");
        let ids: Vec<u64> =
            (0..numbers + 6).map(|at| bench.send(Generate { credit: 1, ..ask([2, 600 + at], 2) })).collect();
        let told = bench.finish();
        assert!(ids.iter().all(|id| told[id].failed.is_none() && told[id].tokens.len() == 1), "{told:?}");
        for id in &ids {
            bench.command(command::Body::Taken(Taken { id: *id, tokens: 8 }));
        }
        let told = bench.finish();
        assert!(ids.iter().all(|id| told[id].failed.is_none() && told[id].tokens.len() == 2), "{told:?}");
    });
}

#[test]
fn a_step_that_cannot_be_computed_fails_only_whom_it_must() {
    with(&[("slots", "3")], |bench| {
        let ids: Vec<u64> = (0..3).map(|number| bench.send(ask(prompt(number), 4))).collect();
        bench.steps.read();
        bench.steps.step();
        while bench.steps.sequences.iter().any(|one| one.left() > 1) {
            bench.steps.step();
        }
        // The cache lacks what the second one believes to be there.
        let cache = bench.steps.sequences[1].cache.expect("it runs");
        bench.steps.memory.context.kv_cache_seq_rm(cache, Some(3), None).expect("removed");
        let told = bench.finish();
        assert_eq!(told[&ids[1]].failed.as_ref().map(|(kind, _)| kind.as_str()), Some("run"));
        for id in [ids[0], ids[2]] {
            assert!(told[&id].failed.is_none() && told[&id].tokens.len() == 4, "{told:?}");
        }
    });
}

#[test]
fn a_cancel_does_not_wait_for_what_is_to_be_read() {
    with(&[("slots", "2"), ("queue", "2")], |bench| {
        let text = |bytes: usize| Generate { prompt: Some(prompt::Body::Text("a ".repeat(bytes / 2))), ..ask([], 1) };
        let ids: Vec<u64> = [text(40_000), text(4_000), text(100), text(100)].map(|one| bench.send(one)).to_vec();
        let full = bench.send(text(100));
        bench.command(command::Body::Cancel(ids[1]));
        let is_stopped = |body: &event::Body| matches!(body, event::Body::Stopped(id) if *id == ids[1]);
        assert!(bench.said.borrow().iter().any(is_stopped), "nothing was read before");
        assert_eq!(bench.told()[&full].failed.as_ref().map(|(kind, _)| kind.as_str()), Some("full"));
        bench.steps.read();
        assert_eq!(bench.steps.arrivals.len(), 2, "a long text is read alone");
        bench.steps.read();
        assert_eq!((bench.steps.arrivals.len(), bench.steps.sequences.len()), (0, 2));
    });
}

/// Prompts and tokens: what was given up is computed again, and comes out as if nothing had happened.
#[test]
fn a_step_is_given_up_for_what_is_more_urgent() {
    with(&[("slots", "2")], |bench| {
        let batch = |number| Generate { band: 3, ..ask(prompt(number), 6) };
        let undisturbed = [bench.send(batch(0)), bench.send(batch(1))];
        let first = bench.finish();
        // Nothing of them is in the cache any more.
        bench.steps.memory.prefixes().iter().for_each(|one| bench.steps.memory.drop_prefix(one.id));
        let ids = [bench.send(batch(0)), bench.send(batch(1))];
        bench.steps.read();
        let mut given_up = 0;
        while bench.steps.sequences.iter().any(|one| one.left() > 0) {
            let before: Vec<usize> = bench.steps.sequences.iter().map(|one| one.computed).collect();
            bench.disturbed(1);
            let after: Vec<usize> = bench.steps.sequences.iter().map(|one| one.computed).collect();
            assert_eq!(before, after, "the step was given up");
            given_up += 1;
            bench.steps.step();
        }
        assert!(given_up >= 6, "{given_up}");
        let told = bench.told();
        for (id, as_before) in ids.iter().zip(&undisturbed) {
            assert_eq!(told[id].tokens, first[as_before].tokens);
            assert!(told[id].failed.is_none() && told[id].cached == Some(0), "{told:?}");
        }
    });
}

#[test]
fn a_step_is_given_up_for_nobody_else_and_not_for_ever() {
    with(&[("slots", "2")], |bench| {
        let id = bench.send(Generate { band: 2, ..ask(prompt(0), 40) });
        bench.steps.read();
        let computed = |bench: &Bench<'_, '_>| bench.steps.sequences[0].computed;
        while bench.steps.sequences[0].left() > 1 {
            bench.steps.step();
        }
        for band in [2, 3] {
            let before = computed(bench);
            bench.disturbed(band);
            assert_eq!(computed(bench), before + 1, "one of band {band} waits");
        }
        // Somebody as urgent is in the step.
        let before = computed(bench);
        let urgent = bench.send(Generate { band: 1, ..ask(prompt(1), 1) });
        bench.steps.read();
        bench.disturbed(1);
        assert!(computed(bench) > before);
        while bench.steps.sequences.iter().any(|one| one.id == urgent) {
            bench.steps.step();
        }
        let before = computed(bench);
        let steps = (1..100).find(|_| {
            bench.disturbed(1);
            computed(bench) > before
        });
        assert_eq!(steps, Some(9), "eight were given up");
        assert!(bench.finish()[&id].failed.is_none());
    });
}

#[test]
fn the_most_urgent_request_is_read_first() {
    with(&[("slots", "2"), ("queue", "8")], |bench| {
        let text =
            |band| Generate { prompt: Some(prompt::Body::Text("international ".repeat(2_600))), band, ..ask([], 1) };
        let [_, urgent, _] = [text(3), text(1), text(2)].map(|one| bench.send(one));
        bench.steps.read();
        let read: Vec<u64> = bench.steps.sequences.iter().map(|one| one.id).collect();
        assert_eq!((read, bench.steps.arrivals.len()), (vec![urgent], 2));
    });
}
