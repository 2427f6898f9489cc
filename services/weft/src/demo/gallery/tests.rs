use tonic::Code;
use weft_participant::Key;
use weft_proto::error_of;

use super::gallery_server::Gallery as _;
use super::*;

fn gallery() -> Gallery {
    let barrier = Barrier::in_memory(Arc::new(SystemClock), Limits::default());
    Gallery { barrier, walls: Mutex::default() }
}

fn marked<T>(message: T, key: &str, direction: Direction, attempt: u32) -> Request<T> {
    let mut request = Request::new(message);
    let key = Key::try_new(key).expect("a key");
    Mark { key, direction, attempt, epoch: 1 }.write(request.metadata_mut());
    request
}

fn publish(key: &str, place: &str) -> Request<PublishRequest> {
    marked(PublishRequest { place: place.to_owned(), label: 7 }, key, Direction::Action, 1)
}

fn retract(key: &str) -> Request<RetractRequest> {
    marked(RetractRequest {}, key, Direction::Undo, 1)
}

fn probe(key: &str, attempt: u32) -> Request<ProbeRequest> {
    marked(ProbeRequest {}, key, Direction::Probe, attempt)
}

fn why<T: std::fmt::Debug>(outcome: Result<Response<T>, Status>) -> (Reason, Option<String>) {
    let error = error_of(&outcome.expect_err("it is refused"));
    (error.reason(), error.field().map(str::to_owned))
}

#[tokio::test]
async fn a_place_has_one_picture_and_is_free_once_that_is_retracted() {
    let gallery = gallery();
    for _ in 0..2 {
        let answer = gallery.publish(publish("j1/front", "window")).await.expect("hung");
        assert_eq!(answer.get_ref().number, 1, "a duplicate is the same picture");
    }
    let taken = gallery.publish(publish("j1/back", "window")).await;
    assert_eq!(taken.as_ref().expect_err("taken").code(), Code::AlreadyExists);
    assert_eq!(why(taken).0, Reason::Conflict);
    let again = gallery.publish(publish("j1/back", "wall")).await;
    assert_eq!(why(again).0, Reason::RejectedByBarrier, "what was told to have failed stays so");
    for _ in 0..2 {
        let answer = gallery.retract(retract("j1/front")).await.expect("taken down");
        assert!(answer.get_ref().retracted, "a duplicate is answered as the first one was");
    }
    assert!(!gallery.retract(retract("j1/back")).await.expect("nothing to do").get_ref().retracted);
    for late in ["j1/front", "j1/back"] {
        assert_eq!(why(gallery.publish(publish(late, "window")).await).0, Reason::RejectedByBarrier, "after its undo");
    }
    gallery.publish(publish("j2/front", "window")).await.expect("the place is free");
    let listed = gallery.list_pictures(Request::new(ListPicturesRequest { prefix: "j1/".to_owned() })).await;
    let listed: Vec<_> = listed.expect("listed").into_inner().pictures;
    assert_eq!(
        listed.iter().map(|picture| (&*picture.key, picture.retracted)).collect::<Vec<_>>(),
        [("j1/front", true)]
    );
}

#[tokio::test]
async fn a_probe_tells_what_hangs_and_shuts_the_door_on_what_does_not() {
    let gallery = gallery();
    gallery.publish(publish("j/there", "window")).await.expect("hung");
    let there = gallery.probe(probe("j/there", 1)).await.expect("told").into_inner();
    assert_eq!((there.done, there.output), (Some(true), Some(PublishResponse { number: 1 })));
    let gone = gallery.probe(probe("j/gone", 1)).await.expect("told").into_inner();
    assert_eq!((gone.done, gone.output), (Some(false), None));
    assert_eq!(why(gallery.publish(publish("j/gone", "wall")).await).0, Reason::RejectedByBarrier);
}

#[tokio::test]
async fn what_was_begun_and_not_told_is_looked_for() {
    let gallery = gallery();
    let begin = async |key: &str, hangs: bool| {
        let mark = read(&publish(key, "x"), Direction::Action).expect("a mark");
        // The pass is dropped, as when the caller goes away in the midst of it.
        let Entry::Run(_) = gallery.barrier.enter(&mark).await.expect("entered") else { panic!("it is new") };
        if hangs {
            gallery.walls().hang(&mark.key, PublishRequest { place: key.to_owned(), label: 1 }).expect("there is room");
        }
    };
    begin("j/hung", true).await;
    begin("j/not", false).await;
    begin("j/undone", true).await;
    assert_eq!(gallery.probe(probe("j/hung", 1)).await.expect("told").into_inner().done, Some(true));
    assert_eq!(gallery.probe(probe("j/not", 1)).await.expect("told").into_inner().done, Some(false));
    assert_eq!(why(gallery.publish(publish("j/not", "x")).await).0, Reason::RejectedByBarrier);
    assert!(gallery.retract(retract("j/undone")).await.expect("taken down").into_inner().retracted);
}

#[tokio::test]
async fn a_bad_call_is_told_its_field() {
    let gallery = gallery();
    let refused = async |request| why(gallery.publish(request).await);
    let bare = Request::new(PublishRequest { place: "window".to_owned(), label: 7 });
    assert_eq!(refused(bare).await, (Reason::InvalidRequest, Some("weft-idempotency-key".to_owned())));
    let undo = marked(PublishRequest { place: "window".to_owned(), label: 7 }, "j/s", Direction::Undo, 1);
    assert_eq!(refused(undo).await, (Reason::InvalidRequest, Some("weft-direction".to_owned())));
    for place in [String::new(), "x".repeat(65)] {
        assert_eq!(refused(publish("j/s", &place)).await, (Reason::InvalidRequest, Some("place".to_owned())));
    }
}
