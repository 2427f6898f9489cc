//! The example participant: over gRPC, with each of its faults, and as a process that dies between begin and end.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::Code;
use weft_participant::Direction;
use weft_proto::error_of;
use weft_runtime::Tasks;
use weft_tests::calls::until;
use weft_tests::etcd::Etcd;
use weft_tests::ledger::messages::{
    AccountResponse, Fault, FaultKind, Fired, HeldRequest, ProbeResponse, PublishResponse, RetractResponse,
};
use weft_tests::ledger::{Client, Guard, NAME, Serving, Setup, descriptors, marked, serve};
use weft_tests::port::Port;
use weft_tests::server::Server;
use weft_types::Reason;

use super::within;

async fn start(guard: Guard) -> Result<(Client, Serving)> {
    let serving = serve(Setup { guard, ..Setup::default() }, &Tasks::new()).await?;
    Ok((Client::new(&serving.address)?, serving))
}

fn fault(direction: &str, kind: FaultKind) -> Fault {
    Fault { step: "publish".into(), direction: direction.into(), kind: kind.into(), times: 1 }
}

fn counts(account: &AccountResponse) -> (u64, u64, u64) {
    (account.deliveries, account.actions, account.undos)
}

#[tokio::test]
async fn each_delivery_counts_and_each_effect_happens_once() -> Result<()> {
    let (client, _serving) = start(Guard::Memory).await?;
    let action = |attempt| marked("job/publish", Direction::Action, attempt);
    let first = client.publish(&action(1)?).await?;
    assert_eq!(client.publish(&action(2)?).await?, first);
    let probed = client.probe(&marked("job/publish", Direction::Probe, 2)?).await?;
    assert_eq!((probed.done(), probed.output), (true, Some(first)));
    assert!(client.deliver(&marked("job/publish", Direction::Undo, 1)?).await?);
    assert!(client.deliver(&marked("job/publish", Direction::Undo, 2)?).await?);
    assert!(!client.deliver(&marked("job/publish", Direction::Probe, 2)?).await?);
    let late = client.publish(&action(3)?).await.expect_err("it is late");
    assert_eq!((late.code(), error_of(&late).reason()), (Code::FailedPrecondition, Reason::RejectedByBarrier));
    assert!(!client.deliver(&marked("job/notify", Direction::Undo, 1)?).await?, "there was nothing to undo");
    assert_eq!(counts(&client.account("job/publish").await?), (7, 1, 1));
    assert_eq!(counts(&client.account("job/").await?), (8, 1, 1));
    Ok(())
}

/// What the barrier is good for: the same calls without it.
#[tokio::test]
async fn a_bare_ledger_does_what_it_is_told_as_often_as_it_is_told() -> Result<()> {
    let (client, _serving) = start(Guard::Bare).await?;
    client.deliver(&marked("job/publish", Direction::Undo, 1)?).await?;
    for attempt in 1..=2 {
        client.publish(&marked("job/publish", Direction::Action, attempt)?).await?;
    }
    assert_eq!(counts(&client.account("").await?), (3, 2, 1));
    Ok(())
}

#[tokio::test]
async fn calls_go_wrong_as_planned() -> Result<()> {
    let (client, _serving) = start(Guard::Memory).await?;
    let action = |attempt| marked("job/publish/3", Direction::Action, attempt);
    let planned = [FaultKind::Unavailable, FaultKind::Refuse, FaultKind::Unknown];
    client.plan(planned.map(|kind| fault("action", kind)).into()).await?;
    assert!(client.publish(&marked("job/other", Direction::Action, 1)?).await.is_ok(), "another step is not concerned");
    let code =
        async |attempt| Ok::<_, anyhow::Error>(client.publish(&action(attempt)?).await.map_err(|status| status.code()));
    assert_eq!(code(1).await?, Err(Code::Unavailable));
    assert_eq!(counts(&client.account("job/publish").await?), (1, 0, 0));
    assert_eq!(code(2).await?, Err(Code::FailedPrecondition));
    assert_eq!(code(3).await?, Err(Code::Unavailable));
    assert_eq!(counts(&client.account("job/publish").await?), (3, 1, 0));
    assert_eq!(code(4).await?.map(|answer| answer.text), Ok("job/publish/3".to_owned()));
    client.plan(vec![fault("undo", FaultKind::Hang)]).await?;
    let undo = marked("job/publish/3", Direction::Undo, 1)?;
    let mut hangs = Box::pin(client.deliver(&undo));
    let gone = async {
        until("the call to arrive", async || client.account("job/publish").await.is_ok_and(|seen| seen.deliveries == 5))
            .await
    };
    tokio::select! {
        ended = &mut hangs => anyhow::bail!("it did not hang: {ended:?}"),
        seen = gone => seen?,
    }
    drop(hangs);
    assert!(client.deliver(&undo).await?);
    let mut fired = client.account("job/publish").await?.fired;
    fired.sort_by_key(|fired| fired.kind);
    let fired: Vec<_> = fired.iter().map(|fired| (&*fired.direction, fired.kind(), fired.times)).collect();
    let expected = [
        ("action", FaultKind::Refuse, 1),
        ("undo", FaultKind::Hang, 1),
        ("action", FaultKind::Unknown, 1),
        ("action", FaultKind::Unavailable, 1),
    ];
    assert_eq!(fired, expected);
    Ok(())
}

/// One item of a step alone, and an answer that is lost again and again although the effect is there.
#[tokio::test]
async fn plans_are_of_steps_and_of_items() -> Result<()> {
    let (client, _serving) = start(Guard::Memory).await?;
    let lost = Fault { step: "publish/2".into(), times: 2, ..fault("action", FaultKind::Unknown) };
    client.plan(vec![lost]).await?;
    for other in ["job/publish", "job/publish/1", "job/publish/22", "job/publishing/2"] {
        assert!(client.deliver(&marked(other, Direction::Action, 1)?).await?, "{other}");
    }
    for attempt in 1..=2 {
        let lost = client.publish(&marked("job/publish/2", Direction::Action, attempt)?).await.expect_err("lost");
        assert_eq!(lost.code(), Code::Unavailable);
    }
    assert!(client.deliver(&marked("job/publish/2", Direction::Action, 3)?).await?);
    assert_eq!(counts(&client.account("job/publish/2").await?), (4, 2, 0), "that of item 22 included");
    Ok(())
}

/// A held call stands before or after its effect, is told of while it does, and ends with its caller; whoever comes next finds out.
#[tokio::test]
async fn held_calls_are_told_of_and_end_with_their_callers() -> Result<()> {
    let (client, _serving) = start(Guard::Memory).await?;
    let hold = |step: &str, direction: &str, kind| Fault { step: step.into(), ..fault(direction, kind) };
    let plan = [("before", FaultKind::HoldBefore), ("after", FaultKind::HoldAfter)];
    client.plan(plan.map(|(step, kind)| hold(step, "action", kind)).into()).await?;
    let action = |step: &str, attempt| marked(&format!("job/{step}"), Direction::Action, attempt);
    let (before, after) = (action("before", 1)?, action("after", 1)?);
    let mut both = Box::pin(futures_util::future::join(client.publish(&before), client.publish(&after)));
    tokio::select! {
        ended = &mut both => anyhow::bail!("they were not held: {ended:?}"),
        held = client.held(2) => held?,
    }
    assert_eq!(counts(&client.account("job/").await?), (2, 1, 0));
    drop(both);
    for step in ["before", "after"] {
        assert!(client.deliver(&action(step, 2)?).await?);
    }
    let account = client.account("job/").await?;
    assert_eq!(counts(&account), (4, 2, 0), "{account:?}");
    assert_eq!(account.fired.iter().map(|fired| fired.times).sum::<u32>(), 2, "{account:?}");
    Ok(())
}

#[tokio::test]
async fn plans_and_marks_are_checked() -> Result<()> {
    let (client, _serving) = start(Guard::Memory).await?;
    let field = |status: tonic::Status| (status.code(), error_of(&status).field().map(str::to_owned));
    let bad = [
        (fault("sideways", FaultKind::Refuse), "faults[0].direction"),
        (fault("action", FaultKind::Unspecified), "faults[0].kind"),
        (Fault { kind: 99, ..fault("action", FaultKind::Refuse) }, "faults[0].kind"),
        (fault("action", FaultKind::CrashBefore), "faults[0].kind"),
        (fault("action", FaultKind::Silent), "faults[0].kind"),
    ];
    for (fault, named) in bad {
        let refused = client.plan(vec![fault]).await.expect_err("refused");
        assert_eq!(field(refused), (Code::InvalidArgument, Some(named.to_owned())));
    }
    let refused = client.plan(vec![fault("action", FaultKind::Refuse); 1025]).await.expect_err("refused");
    assert_eq!(field(refused), (Code::InvalidArgument, Some("faults".to_owned())));
    Ok(())
}

/// The messages are written by hand: what the contract says of a method is what the service reads and writes.
#[test]
fn the_messages_are_those_of_the_contract() -> Result<()> {
    let pool = DescriptorPool::decode(descriptors()?)?;
    let service = pool.get_service_by_name(NAME).context("the service")?;
    let methods: Vec<_> = service.methods().map(|method| method.name().to_owned()).collect();
    assert_eq!(methods, ["Publish", "Retract", "Probe", "Plan", "Account", "Held"]);
    let through = |message: &str, bytes: Vec<u8>| -> Result<serde_json::Value> {
        let descriptor = pool.get_message_by_name(&format!("weft.example.v1.{message}")).context("the message")?;
        let read = DynamicMessage::decode(descriptor, bytes.as_slice())?;
        ensure!(read.unknown_fields().next().is_none(), "{message} has a field that the contract does not have");
        Ok(serde_json::to_value(&read)?)
    };
    let published = PublishResponse { number: 7, text: "a".into() }.encode_to_vec();
    assert_eq!(through("PublishResponse", published)?, serde_json::json!({ "number": "7", "text": "a" }));
    let probed = ProbeResponse { done: Some(false), output: None }.encode_to_vec();
    assert_eq!(through("ProbeResponse", probed)?, serde_json::json!({ "done": false }));
    let probed = ProbeResponse { done: Some(true), output: Some(PublishResponse { number: 7, text: "a".into() }) };
    let expected = serde_json::json!({ "done": true, "output": { "number": "7", "text": "a" } });
    assert_eq!(through("ProbeResponse", probed.encode_to_vec())?, expected);
    let retracted = RetractResponse { retracted: Some(false) }.encode_to_vec();
    assert_eq!(through("RetractResponse", retracted)?, serde_json::json!({ "retracted": false }));
    let fired = Fired { key: "a/b".into(), direction: "undo".into(), kind: FaultKind::HoldAfter.into(), times: 2 };
    let expected = serde_json::json!({ "fired": [{ "key": "a/b", "direction": "undo", "kind": "FAULT_KIND_HOLD_AFTER", "times": 2 }] });
    let account = AccountResponse { fired: vec![fired], ..AccountResponse::default() };
    assert_eq!(through("AccountResponse", account.encode_to_vec())?, expected);
    assert_eq!(through("HeldRequest", HeldRequest { calls: 2 }.encode_to_vec())?, serde_json::json!({ "calls": 2 }));
    let fault = Fault { step: "a".into(), direction: "undo".into(), kind: FaultKind::CrashAfter.into(), times: 2 };
    let expected =
        serde_json::json!({ "step": "a", "direction": "undo", "kind": "FAULT_KIND_CRASH_AFTER", "times": 2 });
    assert_eq!(through("Fault", fault.encode_to_vec())?, expected);
    Ok(())
}

/// The binary over a real etcd, killed between begin and end of an action and of an undo: nothing happens twice, and nothing is left.
#[tokio::test]
async fn a_process_that_dies_leaves_no_effect_behind() -> Result<()> {
    within(Box::pin(async {
        let (etcd, folder, port) = (Etcd::start().await?, tempfile::tempdir()?, Port::reserve()?);
        let (address, file) = (port.address().to_string(), folder.path().join("entries"));
        let launch = async || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ledger"));
            command.args([&address, "etcd", &etcd.client_url]).arg(&file);
            let server = Server::start("ledger", &mut command, folder.path())?;
            // With connections of its own: those to the process before it may not know yet that they are broken.
            let client = Client::new(&address)?;
            until("a ledger that answers", async || client.totals().await.is_ok())
                .await
                .with_context(|| server.log())?;
            Ok::<_, anyhow::Error>((server, client))
        };
        let (action, undo) = (
            |attempt| marked("job/publish", Direction::Action, attempt),
            |attempt| marked("job/publish", Direction::Undo, attempt),
        );
        let (ledger, client) = launch().await?;
        client.plan(vec![fault("action", FaultKind::CrashBefore)]).await?;
        ensure!(client.deliver(&action(1)?).await.is_err(), "it did not die");
        drop(ledger);
        let (ledger, client) = launch().await?;
        client.plan(vec![fault("action", FaultKind::CrashAfter)]).await?;
        ensure!(client.deliver(&action(2)?).await.is_err(), "it did not die");
        drop(ledger);
        let (ledger, client) = launch().await?;
        ensure!(client.deliver(&action(3)?).await?, "it is there");
        client.plan(vec![fault("undo", FaultKind::CrashAfter)]).await?;
        ensure!(client.deliver(&undo(1)?).await.is_err(), "it did not die");
        drop(ledger);
        let (_ledger, client) = launch().await?;
        client.deliver(&undo(2)?).await?;
        let late = client.deliver(&action(4)?).await.err().context("it is late")?;
        assert_eq!(error_of(&late).reason(), Reason::RejectedByBarrier);
        let account = client.account("").await?;
        assert_eq!((account.actions, account.undos), (1, 1), "{account:?}");
        Ok(())
    }))
    .await
}
