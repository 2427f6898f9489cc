//! Sequences while replicas of their model come and go: each is answered with the state that it began to gather.

use anyhow::{Context as _, Result};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use weft_tests::calls::{Caller, raw, until, with_timeout};
use weft_tests::graphs;
use weft_tests::process::Weft;

use super::cluster::{Cluster, LIMIT, ready_on, replicate};

const MODEL: &str = "total";
/// Replicas; there is one worker more, so that one can go.
const REPLICAS: u32 = 4;
/// Enough for some of them to prefer each worker.
const SEQUENCES: i64 = 24;

const CONFIG: &str = "
    name: 'total' backend: 'tract'
    sequence_batching {
      max_sequence_idle_microseconds: 3600000000
      state { input_name: 'STATE' output_name: 'NEXT' data_type: TYPE_INT64 dims: [ 1 ] }
    }";

/// A repository with a model that adds up what its sequences are given.
fn repository() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let model = folder.path().join(MODEL);
    std::fs::create_dir_all(model.join("1"))?;
    std::fs::write(model.join("1/model.onnx"), graphs::total())?;
    std::fs::write(model.join("config.pbtxt"), CONFIG)?;
    Ok(folder)
}

fn worker(cluster: &Cluster, models: &tempfile::TempDir, id: u32) -> Result<Weft> {
    let models = models.path().to_str().context("a path in UTF-8")?;
    let id = format!("worker-{id}");
    let etcd = ["--etcd", &cluster.etcd.client_url, "--lease-ttl", "2s", "--id", &id];
    Weft::start("worker", &[&etcd[..], &["--models", models]].concat())
}

fn ask(sequence: i64, number: i64, flag: Option<&str>) -> ModelInferRequest {
    let mut request = raw(MODEL, ("X", "INT64"), &[1], number.to_le_bytes().to_vec());
    let id = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(sequence)) };
    request.parameters.insert("sequence_id".into(), id);
    if let Some(flag) = flag {
        let set = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
        request.parameters.insert(flag.into(), set);
    }
    request
}

fn sum(answer: &ModelInferResponse) -> Result<i64> {
    let contents = answer.raw_output_contents.first().context("an output")?;
    Ok(i64::from_le_bytes(contents.as_ref().try_into()?))
}

/// A stream that is asked one thing at a time.
struct Talk {
    requests: Sender<ModelInferRequest>,
    answers: Streaming<ModelStreamInferResponse>,
}

impl Talk {
    /// Opens it with its first request: a stream without any has no worker, and so no answers to wait for.
    async fn open(caller: &Caller, first: ModelInferRequest) -> Result<(Self, Result<i64, String>)> {
        let (requests, sent) = channel(1);
        requests.send(first).await?;
        let call = caller.inference().model_stream_infer(with_timeout(ReceiverStream::new(sent), LIMIT * 4)).await?;
        let mut talk = Self { requests, answers: call.into_inner() };
        let total = talk.answer().await?;
        Ok((talk, total))
    }

    async fn ask(&mut self, request: ModelInferRequest) -> Result<Result<i64, String>> {
        self.requests.send(request).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Result<i64, String>> {
        let answer = self.answers.message().await?.context("the stream goes on")?;
        let response = answer.infer_response.context("a response")?;
        Ok(if answer.error_message.is_empty() { Ok(sum(&response)?) } else { Err(answer.error_message) })
    }
}

async fn alone(caller: &Caller, request: ModelInferRequest) -> Result<i64> {
    sum(&caller.infer(request, LIMIT).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_keep_their_state_while_replicas_come_and_go() -> Result<()> {
    let (cluster, models) = (Cluster::start().await?, repository()?);
    let scheduler = cluster.weft("scheduler", "1")?;
    let mut first = worker(&cluster, &models, 1)?;
    let router = cluster.weft("router", "1")?;
    let caller = Caller::new(&router.address)?;
    replicate(&caller, MODEL, 1).await?;
    caller.wait_ready(MODEL).await?;

    // The odd ones by calls of their own, the even ones on one stream.
    let (mut talk, total) = Talk::open(&caller, ask(0x8000, 5, Some("sequence_start"))).await?;
    assert_eq!(total, Ok(5));
    for sequence in 1..=SEQUENCES {
        let request = ask(sequence, sequence, Some("sequence_start"));
        let total = if sequence % 2 == 1 { Ok(alone(&caller, request).await?) } else { talk.ask(request).await? };
        assert_eq!(total, Ok(sequence));
    }

    // Others come, where most of these sequences would begin now.
    let others = (2..=REPLICAS + 1).map(|id| worker(&cluster, &models, id)).collect::<Result<Vec<_>>>()?;
    replicate(&caller, MODEL, REPLICAS).await?;
    for (number, gathered) in [(100, 100), (1000, 1100)] {
        for sequence in 1..=SEQUENCES {
            let request = ask(sequence, number, None);
            let total = if sequence % 2 == 1 { Ok(alone(&caller, request).await?) } else { talk.ask(request).await? };
            assert_eq!(total, Ok(sequence + gathered), "sequence {sequence}");
        }
    }

    // One that never began is refused by all, at once, and named.
    let refused = caller.infer(ask(1_000_000, 1, None), LIMIT).await.expect_err("it has not begun");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().starts_with("parameters[sequence_id]"), "{refused:?}");

    // What ends and begins anew begins at nothing, on any of them.
    for sequence in 1..=SEQUENCES {
        let request = ask(sequence, 1, Some("sequence_end"));
        let total = if sequence % 2 == 1 { Ok(alone(&caller, request).await?) } else { talk.ask(request).await? };
        assert_eq!(total, Ok(sequence + 1101), "sequence {sequence}");
        assert_eq!(talk.ask(ask(sequence, 7, Some("sequence_start"))).await?, Ok(7));
    }
    // The first one goes, and what began on it is lost; all others go on.
    first.signal("TERM")?;
    assert_eq!(first.wait().await?.code(), Some(0), "{}", first.log());
    until("the first to be gone", async || !ready_on(&caller, MODEL).await.contains(&"worker-1".to_owned())).await?;
    let mut lost = 0;
    for sequence in 1..=SEQUENCES {
        match talk.ask(ask(sequence, 1, None)).await? {
            Ok(total) => assert_eq!(total, 8, "sequence {sequence}"),
            Err(problem) => {
                assert!(problem.contains("no such sequence"), "{problem}");
                lost += 1;
            }
        }
    }
    assert!(lost > 0 && lost < SEQUENCES / 2, "{lost} of {SEQUENCES} began on the one that went");
    drop((scheduler, others));
    Ok(())
}
