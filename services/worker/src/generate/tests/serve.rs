use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tonic::{Code, Request, Streaming};
use weft_engine::{Error, Finish, Occupancy, Prompt, Usage};
use weft_proto::error_of;
use weft_proto::frame::FINAL_RESPONSE;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{
    ModelConfigRequest, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelStatisticsRequest,
    ModelStreamInferResponse, StatisticDuration,
};
use weft_proto::weft::state::v1::ReplicaState;
use weft_proto::weft::worker::v1::GetStatusRequest;
use weft_proto::weft::worker::v1::worker_server::Worker as _;
use weft_types::{Reason, SystemClock};

use super::{In, request, with};
use crate::Admin;
use crate::fake::World;
use crate::fake::language::{Begun, Handle, speaking};
use crate::grpc::tests::{LONG, client};
use crate::infer;
use crate::quarantine::{Digest, Standing};
use crate::replica::Replica;

const USAGE: Usage =
    Usage { prompt_tokens: 3, cached_tokens: 1, output_tokens: 2, preemptions: 0, queued: Duration::from_millis(7) };

fn prompt(id: &str) -> ModelInferRequest {
    request(id, &[("text_input", In::Text("Say: "))])
}

fn everything(id: &str) -> ModelInferRequest {
    let flags = [
        "finish_reason",
        "cumulative_logprob",
        "logprobs",
        "num_input_tokens",
        "num_cached_tokens",
        "num_output_tokens",
        "token_ids",
    ];
    flags
        .iter()
        .fold(prompt(id), |request, name| with(request, &format!("return_{name}"), ParameterChoice::BoolParam(true)))
}

/// The bytes of an output, without the length that stands before a text.
fn output<'a>(response: &'a ModelInferResponse, name: &str) -> Option<&'a [u8]> {
    let index = response.outputs.iter().position(|output| output.name == name)?;
    let bytes = &response.raw_output_contents[index];
    Some(if response.outputs[index].datatype == "BYTES" { &bytes[4..] } else { bytes })
}

fn number(response: &ModelInferResponse, name: &str) -> Option<u32> {
    output(response, name).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("one number")))
}

fn text(response: &ModelInferResponse) -> &str {
    std::str::from_utf8(output(response, "text_output").expect("always there")).expect("UTF-8")
}

fn is_final(response: &ModelInferResponse) -> bool {
    match response.parameters.get(FINAL_RESPONSE).and_then(|parameter| parameter.parameter_choice.clone()) {
        Some(ParameterChoice::BoolParam(is_final)) => is_final,
        other => panic!("no mark: {other:?}"),
    }
}

async fn next(answers: &mut Streaming<ModelStreamInferResponse>) -> ModelInferResponse {
    let answer = answers.message().await.expect("goes on").expect("not over");
    assert_eq!(answer.error_message, "");
    answer.infer_response.expect("filled")
}

/// Opens a stream with these requests, which stays open for more, and takes their sequences.
async fn open(
    world: &World,
    handle: &mut Handle,
    requests: Vec<ModelInferRequest>,
) -> (Streaming<ModelStreamInferResponse>, Vec<Begun>) {
    let count = requests.len();
    let requests = stream::iter(requests).chain(stream::pending());
    let mut answers = client(world, LONG).model_stream_infer(requests).await.expect("opened").into_inner();
    let mut begun = Vec::new();
    while begun.len() < count {
        // Work is done for a stream only while it is read.
        begun.push(begins(&mut answers, handle).await);
    }
    (answers, begun)
}

#[tokio::test]
async fn a_unary_call_gets_the_whole_text() {
    let (world, mut handle) = speaking().await;
    let mut client = client(&world, LONG);
    let speak = async {
        let begun = handle.next().await;
        assert!(begun.request.logprobs && begun.request.band == 1);
        begun.say("one ", 11).await;
        begun.say("two", 12).await;
        begun.end(Finish::Stop, USAGE).await;
    };
    let asked = with(everything("7"), "priority", ParameterChoice::Int64Param(1));
    let (response, ()) = tokio::join!(client.model_infer(asked), speak);
    let response = response.expect("answered").into_inner();
    assert_eq!((response.id.as_str(), response.model_name.as_str()), ("7", "identity"));
    assert_eq!(text(&response), "Say: one two");
    assert_eq!(output(&response, "finish_reason"), Some(&b"stop"[..]));
    let numbers = ["num_input_tokens", "num_cached_tokens", "num_output_tokens"].map(|name| number(&response, name));
    assert_eq!(numbers, [Some(3), Some(1), Some(2)]);
    assert_eq!(output(&response, "token_ids"), Some(&[11, 0, 0, 0, 12, 0, 0, 0][..]));
    assert_eq!(output(&response, "logprobs"), Some(&[(-0.5f32).to_le_bytes(), (-0.5f32).to_le_bytes()].concat()[..]));
    assert_eq!(output(&response, "cumulative_logprob"), Some(&(-1.0f32).to_le_bytes()[..]));
    let report = client.model_statistics(ModelStatisticsRequest::default()).await.expect("told").into_inner();
    assert_eq!(report.model_stats[0].inference_count, 1);
    let stats = report.model_stats[0].inference_stats.as_ref().expect("filled");
    assert_eq!(stats.success.map(|all| all.count), Some(1));
    assert_eq!(stats.queue, Some(StatisticDuration { count: 1, ns: 7_000_000 }), "until its first step began");
}

#[tokio::test]
async fn a_stream_gets_each_piece_and_only_the_last_is_marked() {
    let (world, mut handle) = speaking().await;
    let (mut answers, mut begun) = open(&world, &mut handle, vec![everything("7")]).await;
    let begun = begun.remove(0);
    for (said, token) in [("one ", 11), ("", 12), ("two", 13)] {
        begun.say(said, token).await;
        let response = next(&mut answers).await;
        assert_eq!((response.id.as_str(), text(&response), is_final(&response)), ("7", said, false));
        assert_eq!(output(&response, "finish_reason"), Some(&b"None"[..]));
        assert_eq!((number(&response, "token_ids"), number(&response, "num_output_tokens")), (Some(token), Some(1)));
        assert_eq!(number(&response, "num_input_tokens"), None);
    }
    begun.end(Finish::Length, USAGE).await;
    let last = next(&mut answers).await;
    assert_eq!((text(&last), is_final(&last), number(&last, "num_input_tokens")), ("", true, Some(3)));
    assert_eq!(output(&last, "finish_reason"), Some(&b"length"[..]));
    assert_eq!(output(&last, "cumulative_logprob"), Some(&(-1.5f32).to_le_bytes()[..]));
}

#[tokio::test]
async fn a_stream_can_ask_for_the_whole() {
    let (world, mut handle) = speaking().await;
    let whole = with(prompt("7"), "stream", ParameterChoice::BoolParam(false));
    let (mut answers, mut begun) = open(&world, &mut handle, vec![whole]).await;
    let begun = begun.remove(0);
    let speak = async {
        begun.say("one ", 11).await;
        begun.say("two", 12).await;
        begun.end(Finish::Stop, USAGE).await;
    };
    let (response, ()) = tokio::join!(next(&mut answers), speak);
    assert_eq!((text(&response), is_final(&response)), ("Say: one two", true));
}

#[tokio::test]
async fn sequences_of_a_stream_interleave_and_one_that_fails_ends_alone() {
    let (world, mut handle) = speaking().await;
    let (mut answers, mut begun) = open(&world, &mut handle, vec![prompt("a"), prompt("b"), prompt("c")]).await;
    let (c, b, a) = (begun.remove(2), begun.remove(1), begun.remove(0));
    for (speaker, id) in [(&b, "b"), (&a, "a"), (&c, "c"), (&b, "b")] {
        speaker.say("x", 1).await;
        assert_eq!(next(&mut answers).await.id, id);
    }
    b.fail(Error::Lost("planted".into())).await;
    let failed = answers.message().await.expect("goes on").expect("not over");
    assert!(failed.error_message.contains("lost: planted"), "{}", failed.error_message);
    assert_eq!(failed.infer_response.expect("filled").id, "b");
    for (speaker, id) in [(a, "a"), (c, "c")] {
        speaker.end(Finish::Stop, USAGE).await;
        let last = next(&mut answers).await;
        assert_eq!((last.id.as_str(), is_final(&last)), (id, true));
    }
}

/// Answers to tensor-like refusals and pieces share the stream, and its end comes when all have ended.
#[tokio::test]
async fn a_stream_ends_when_the_last_sequence_has() {
    let (world, mut handle) = speaking().await;
    let unknown = ModelInferRequest { model_name: "nobody".into(), ..prompt("x") };
    let requests = stream::iter([prompt("a"), unknown, prompt("b")]);
    let answers = client(&world, LONG).model_stream_infer(requests).await.expect("opened").into_inner();
    let speak = async {
        let (a, b) = (handle.next().await, handle.next().await);
        b.end(Finish::Stop, USAGE).await;
        a.end(Finish::Stop, USAGE).await;
    };
    let (answers, ()) = tokio::join!(answers.collect::<Vec<_>>(), speak);
    let mut ids: Vec<String> = answers
        .into_iter()
        .map(|answer| answer.expect("no failure of the stream").infer_response.expect("filled").id)
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["a", "b", "x"]);
}

/// A piece is taken when the caller takes the response before it: who does not read holds up his own sequence, and nobody else's.
#[tokio::test]
async fn a_caller_who_does_not_read_pauses_his_sequence_only() {
    let (world, mut handle) = speaking().await;
    let (mut slow, mut one) = open(&world, &mut handle, vec![prompt("slow")]).await;
    let (mut quick, mut other) = open(&world, &mut handle, vec![prompt("quick")]).await;
    let (one, other) = (one.remove(0), other.remove(0));
    assert!(one.try_say("a", 1), "the first piece waits for its reader");
    for _ in 0..100 {
        assert!(!one.try_say("b", 1), "taken although nobody reads");
        other.say("x", 2).await;
        assert_eq!(text(&next(&mut quick).await), "x");
    }
    assert_eq!(text(&next(&mut slow).await), "a");
    one.say("b", 1).await;
    assert_eq!(text(&next(&mut slow).await), "b");
}

/// The next sequence of a stream that is being read, on which nothing is said.
async fn begins(answers: &mut Streaming<ModelStreamInferResponse>, handle: &mut Handle) -> Begun {
    tokio::select! {
        begun = handle.next() => begun,
        _ = answers.message() => panic!("nothing was said"),
    }
}

#[tokio::test]
async fn no_more_requests_are_read_than_are_worked_on() {
    let (world, mut handle) = speaking().await;
    let requests = stream::iter((0..33).map(|id| prompt(&id.to_string()))).chain(stream::pending());
    let mut answers = client(&world, LONG).model_stream_infer(requests).await.expect("opened").into_inner();
    let mut begun = Vec::new();
    while begun.len() < 32 {
        begun.push(begins(&mut answers, &mut handle).await);
    }
    for _ in 0..100 {
        assert!(answers.message().now_or_never().is_none() && handle.is_idle(), "one more than there is room for");
        tokio::task::yield_now().await;
    }
    begun.remove(5).end(Finish::Stop, USAGE).await;
    assert_eq!(next(&mut answers).await.id, "5");
    assert_eq!(begins(&mut answers, &mut handle).await.request.prompt, begun[0].request.prompt);
}

#[tokio::test]
async fn dropped_calls_and_streams_drop_their_sequences() {
    let (world, mut handle) = speaking().await;
    let (answers, begun) = open(&world, &mut handle, vec![prompt("a"), prompt("b")]).await;
    drop(answers);
    for one in begun {
        one.dropped().await;
    }
    let mut client = client(&world, LONG);
    let begun = tokio::select! {
        _ = client.model_infer(prompt("c")) => panic!("nobody answers"),
        begun = handle.next() => begun,
    };
    begun.dropped().await;
}

#[tokio::test]
async fn a_deadline_ends_a_sequence_before_and_after_its_first_token() {
    let (world, mut handle) = speaking().await;
    let short = |id: &str| with(prompt(id), "timeout", ParameterChoice::Int64Param(30_000));
    let mut unary = client(&world, LONG);
    // The one wait of these tests that nothing but a deadline ends.
    let ends = tokio::time::timeout(LONG, async { tokio::join!(unary.model_infer(short("a")), handle.next()) });
    let (answer, begun) = ends.await.expect("the deadline ends it");
    assert_eq!(error_of(&answer.expect_err("late")).reason(), Reason::DeadlineInQueue);
    begun.dropped().await;
    let (mut answers, mut begun) = open(&world, &mut handle, vec![short("b")]).await;
    let begun = begun.remove(0);
    begun.say("x", 1).await;
    next(&mut answers).await;
    // The request's own deadline, not the stream's: told in its message.
    let late = answers.message().await.expect("goes on").expect("not over");
    assert!(late.error_message.contains("while the model ran"), "{}", late.error_message);
    begun.dropped().await;
    // The stream's own.
    let requests = stream::iter([prompt("c")]).chain(stream::pending());
    let brief = Duration::from_millis(30);
    let mut answers = client(&world, brief).model_stream_infer(requests).await.expect("opened").into_inner();
    assert_eq!(answers.message().await.expect_err("late").code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_engines_refusals_are_told() {
    let (world, handle) = speaking().await;
    let mut client = client(&world, LONG);
    handle.refuse(Error::Full("as many wait as may".into()));
    let full = client.model_infer(prompt("a")).await.expect_err("refused");
    assert_eq!((full.code(), error_of(&full).reason()), (Code::ResourceExhausted, Reason::QueueFull));
    assert!(error_of(&full).pushback().is_some());
    handle.refuse(Error::Input { field: "text_input".into(), problem: "longer than the context".into() });
    let long = client.model_infer(prompt("a")).await.expect_err("refused");
    assert_eq!((long.code(), error_of(&long).field()), (Code::InvalidArgument, Some("text_input")));
}

fn digest(request: &ModelInferRequest) -> Digest {
    Digest::of(&infer::convert(request.clone()).expect("well formed").tensors)
}

#[tokio::test]
async fn suspects_run_one_after_the_other_and_are_cleared_by_their_end() {
    let (world, mut handle) = speaking().await;
    let [first, second, clear] =
        ["first", "second", "clear"].map(|text| request(text, &[("text_input", In::Text(text))]));
    let replica = held(&world);
    for suspect in [&first, &second] {
        assert!(!replica.quarantine.blame(digest(suspect), SystemClock::now()));
    }
    let calls = [first.clone(), second.clone(), clear].map(|request| {
        let mut client = client(&world, LONG);
        async move { client.model_infer(request).await }
    });
    let served = async {
        let mut running = vec![handle.next().await, handle.next().await];
        // The one that is no suspect, and one of those that are; the other waits for its turn.
        let text = |begun: &Begun| match &begun.request.prompt {
            Prompt::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(running.iter().filter(|begun| text(begun) == "clear").count(), 1);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(handle.is_idle(), "two suspects run at once");
        let suspect = running.iter().position(|begun| text(begun) != "clear").expect("one of both");
        running.remove(suspect).end(Finish::Stop, USAGE).await;
        running.push(handle.next().await);
        for begun in running {
            begun.end(Finish::Stop, USAGE).await;
        }
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(calls), served);
    answers.into_iter().for_each(|answer| drop(answer.expect("answered")));
    for suspect in [&first, &second] {
        let inputs = infer::convert(suspect.clone()).expect("well formed").tensors;
        assert_eq!(replica.quarantine.judge(&inputs, SystemClock::now()), Standing::Clear);
    }
}

#[tokio::test]
async fn a_prompt_in_a_lost_process_is_suspected_and_refused_in_the_end() {
    let (world, mut handle) = speaking().await;
    let (replica, asked) = (held(&world), prompt("a"));
    replica.quarantine.blame(digest(&asked), SystemClock::now());
    let mut caller = client(&world, LONG);
    let lost = async { handle.next().await.fail(Error::Lost("planted".into())).await };
    let (answer, ()) = tokio::join!(caller.model_infer(asked.clone()), lost);
    assert_eq!(answer.expect_err("lost").code(), Code::Internal);
    assert!(replica.quarantine.blame(digest(&asked), SystemClock::now()), "its loss was not counted");
    let refused = caller.model_infer(asked).await.expect_err("refused");
    assert_eq!(error_of(&refused).reason(), Reason::ModelFailed, "{refused}");
    assert!(handle.is_idle());
}

#[tokio::test]
async fn an_end_without_a_word_is_a_failure() {
    let (world, mut handle) = speaking().await;
    let mut client = client(&world, LONG);
    let hang_up = async { drop(handle.next().await) };
    let (answer, ()) = tokio::join!(client.model_infer(prompt("a")), hang_up);
    assert_eq!(answer.expect_err("lost").code(), Code::Internal);
}

fn held(world: &World) -> Arc<Replica> {
    let replicas = world.worker.shared.replicas.all();
    let replica = replicas.values().flat_map(|versions| versions.values()).find_map(|held| held.replica().cloned());
    replica.expect("it is held")
}

/// A drain must not overlook a sequence that the engine is being asked for.
#[tokio::test]
async fn a_sequence_is_counted_before_it_begins() {
    let (world, mut handle) = speaking().await;
    let replica = held(&world);
    let gate = handle.hold().await;
    let mut client = client(&world, LONG);
    let asking = client.model_infer(prompt("a"));
    tokio::pin!(asking);
    let counted = async {
        while replica.sequences.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut asking => panic!("nothing begins"),
        counted = tokio::time::timeout(LONG, counted) => counted.expect("it is not counted"),
    }
    drop(gate);
    let begun = async { handle.next().await.end(Finish::Stop, USAGE).await };
    let (answer, ()) = tokio::join!(asking, begun);
    answer.expect("answered");
    assert!(replica.sequences.is_empty());
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_caller_who_does_not_read() {
    let (world, mut handle) = speaking().await;
    let (_unread, begun) = open(&world, &mut handle, vec![prompt("a")]).await;
    let drained = tokio::time::timeout(LONG, held(&world).drain(Duration::ZERO)).await;
    drained.expect("it is bounded");
    assert_eq!(held(&world).sequences.len(), begun.len());
}

#[tokio::test]
async fn a_drain_waits_for_running_sequences_and_takes_no_more() {
    let (world, mut handle) = speaking().await;
    let (mut answers, mut begun) = open(&world, &mut handle, vec![prompt("a")]).await;
    let begun = begun.remove(0);
    let replica = held(&world);
    world.unplace("identity").await;
    world.told("identity", ReplicaState::Draining).await;
    begun.say("x", 1).await;
    assert_eq!(text(&next(&mut answers).await), "x");
    // The drain has told routers first; then it closes, and waits.
    let draining = replica.drain(LONG);
    tokio::pin!(draining);
    for _ in 0..100 {
        assert!((&mut draining).now_or_never().is_none(), "a sequence runs");
        // All that the drain waits for besides has had its turns by now.
        tokio::task::yield_now().await;
    }
    let refused = client(&world, LONG).model_infer(prompt("b")).await.expect_err("draining");
    assert_eq!(error_of(&refused).reason(), Reason::Draining);
    begun.end(Finish::Stop, USAGE).await;
    assert!(is_final(&next(&mut answers).await));
    draining.await;
    world.gone("identity").await;
}

/// A call can be sent elsewhere; what has begun on a stream cannot.
#[tokio::test]
async fn a_model_that_makes_way_stops_calls_and_finishes_streams() {
    let (world, mut handle) = speaking().await;
    let (mut answers, mut begun) = open(&world, &mut handle, vec![prompt("a")]).await;
    let streamed = begun.remove(0);
    let mut client = client(&world, LONG);
    let preempted = async {
        let called = handle.next().await;
        called.say("x", 1).await;
        world.preempt("identity").await;
        called.dropped().await;
    };
    let (answer, ()) = tokio::join!(client.model_infer(prompt("b")), preempted);
    assert_eq!(error_of(&answer.expect_err("stopped")).reason(), Reason::Draining);
    streamed.say("y", 1).await;
    assert_eq!(text(&next(&mut answers).await), "y");
    streamed.end(Finish::Stop, USAGE).await;
    assert!(is_final(&next(&mut answers).await));
    world.gone("identity").await;
}

#[tokio::test]
async fn what_outlives_the_drain_is_told_to_go_elsewhere() {
    let (world, mut handle) = speaking().await;
    let (mut answers, mut begun) = open(&world, &mut handle, vec![prompt("a")]).await;
    world.worker.leave().await;
    let failed = answers.message().await.expect("goes on").expect("not over");
    assert!(failed.error_message.contains("unloaded"), "{}", failed.error_message);
    begun.remove(0).dropped().await;
}

#[tokio::test]
async fn a_language_model_describes_itself() {
    let (world, handle) = speaking().await;
    let mut client = client(&world, LONG);
    let asked = ModelMetadataRequest { name: "identity".into(), version: String::new() };
    let metadata = client.model_metadata(asked).await.expect("told").into_inner();
    assert_eq!(metadata.platform, "spoken");
    let port = |name: &str| {
        let ports = metadata.inputs.iter().chain(&metadata.outputs);
        ports.clone().find(|port| port.name == name).map(|port| (port.datatype.clone(), port.shape.clone()))
    };
    assert_eq!(port("text_input"), Some(("BYTES".into(), vec![1])));
    assert_eq!(port("text_output"), Some(("BYTES".into(), vec![1])));
    assert_eq!(port("token_ids"), Some(("INT32".into(), vec![-1])));
    let asked = ModelConfigRequest { name: "identity".into(), version: String::new() };
    let config = client.model_config(asked).await.expect("told").into_inner().config.expect("filled");
    assert!(config.model_transaction_policy.is_some_and(|policy| policy.decoupled));
    assert!(config.input.iter().all(|input| input.optional) && config.max_batch_size == 0);
    handle.occupy(Occupancy { running: 3, waiting: 2, kv_tokens: 9 });
    let admin = Admin::new(Arc::clone(&world.worker.shared));
    let status = admin.get_status(Request::new(GetStatusRequest {})).await.expect("told").into_inner();
    assert_eq!((status.replicas[0].running, status.replicas[0].queued), (3, 2));
}
