//! Copies of a route's unary calls for its shadow: sent beside the call, compared with its answer, and dropped.
//!
//! A call does not wait for its copy, and nothing of the copy reaches the caller. The copy has one attempt, on a replica that is ready
//! now, within the caller's deadline; it ends early when the caller goes away, as there is nothing to compare it with then. Too
//! many of them at once, or too many bytes, are not sent. The message is shared with the call, so a copy costs no copying.

mod compare;

use std::sync::Arc;

use rand::RngExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tonic::metadata::MetadataValue;
use tonic::{Code, Response, Status};
use weft_client::{outgoing, within};
use weft_proto::message::Message;
use weft_proto::status_of;
use weft_runtime::Call;
use weft_telemetry::{ShadowMetrics, ShadowOutcome, Span};
use weft_types::{Deadline, SystemClock};

use crate::Inner;
use crate::choose::choose;
use crate::dispatch::{Chosen, METHOD};
use crate::identify::Wanted;
use crate::route::{Routed, Target, route};
use crate::rules::Shadow;
use crate::table::Table;
use compare::compare;

/// Tells a worker that nobody waits for the answer.
const MARK: &str = "weft-shadow";
/// Copies that may be under way at once.
const MOST: usize = 64;
/// Bytes of requests that they may hold together, in KiB: a slow shadow keeps them after the calls have ended.
const MOST_KIB: usize = 64 << 10;

/// What came of a call, as far as its copy is compared with it.
type Answer = Result<Message, Code>;

/// Room for copies.
pub(crate) struct Shadows {
    calls: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

impl Default for Shadows {
    fn default() -> Self {
        Self { calls: Arc::new(Semaphore::new(MOST)), kib: Arc::new(Semaphore::new(MOST_KIB)) }
    }
}

/// The room that a copy takes, until it is dropped.
struct Room {
    _call: OwnedSemaphorePermit,
    _kib: OwnedSemaphorePermit,
}

impl Shadows {
    /// Copies that may still be sent beside those that are under way.
    pub(crate) fn left(&self) -> usize {
        self.calls.available_permits()
    }

    /// Room for a message, if there is any. It is not waited for.
    fn enter(&self, bytes: usize) -> Option<Room> {
        let kib = u32::try_from(bytes / 1024 + 1).ok()?;
        let _call = Arc::clone(&self.calls).try_acquire_owned().ok()?;
        let _kib = Arc::clone(&self.kib).try_acquire_many_owned(kib).ok()?;
        Some(Room { _call, _kib })
    }
}

/// A copy that waits for the call's answer. Dropping it ends the copy.
pub(crate) struct Copied(oneshot::Sender<Answer>);

impl Copied {
    /// Hands over the call's answer.
    pub(crate) fn compare(self, answer: Result<&Message, &Status>) {
        let answer = answer.cloned().map_err(Status::code);
        // The copy may be over already, as the process is ending.
        let _ = self.0.send(answer);
    }
}

/// Sends a copy of the call, where its route has a shadow and this call is drawn for it. Calls of a sequence are not copied: a
/// part of a sequence means nothing.
pub(crate) fn copy(router: &Arc<Inner>, call: &Call, wanted: &Wanted<'_>, message: &Message) -> Option<Copied> {
    let table = router.table.load();
    let of_route = table.rules(wanted.name).and_then(|rules| rules.shadow.as_ref());
    let shadow = of_route.or_else(|| of_rollout(&table, wanted))?;
    if wanted.sequence.is_some() || !is_drawn(shadow.percent, rand::rng().random_range(0..100)) {
        return None;
    }
    let Some((chosen, room)) = choose_for(&table, shadow).zip(router.shadows.enter(message.len())) else {
        shadow.metrics.record(ShadowOutcome::Dropped);
        return None;
    };
    let mut span = chosen.span(router, METHOD, &call.trace, 0);
    span.set("weft.shadow", true);
    let sending = Sending { chosen, span, message: message.clone(), deadline: wanted.deadline };
    let (sender, answer) = oneshot::channel();
    let work = follow(Arc::clone(router), sending, answer, shadow.metrics.clone());
    router.tasks.spawn("shadow", async move {
        let _room = room;
        work.await;
    });
    Some(Copied(sender))
}

/// Whether a call is copied, by a draw of 0 to 99.
const fn is_drawn(percent: u32, draw: u32) -> bool {
    draw < percent
}

/// The shadow that a rollout of the model has to which the call goes.
fn of_rollout<'a>(table: &'a Table, wanted: &Wanted<'_>) -> Option<&'a Shadow> {
    if !table.shadowing {
        return None;
    }
    let routed = route(table, wanted.name, wanted.version, &wanted.marks(), SystemClock::now());
    let Ok(Routed::Ready(target)) = routed else { return None };
    let staged = table.model(target.model)?.staged.as_ref()?;
    staged.shadow.as_ref().filter(|_| staged.answers() == target.version)
}

/// A replica of the shadow that is ready now: a copy is not worth waiting for one.
fn choose_for(table: &Table, shadow: &Shadow) -> Option<Chosen> {
    let (version, ready) = table.model(&shadow.model)?.ready(shadow.version)?;
    // Nor does it go before calls that wait for their turn.
    let permit = choose(&ready.replicas, &[], None).filter(|_| !ready.gate.is_busy())?;
    Some(Chosen::of(Target { model: &shadow.model, version, ready, leading: None }, permit))
}

/// A copy on its way.
struct Sending {
    chosen: Chosen,
    span: Span,
    message: Message,
    deadline: Deadline,
}

/// Sends the copy and waits for both answers. It ends with the caller, and with the process: a drain waits for calls, not for this.
async fn follow(router: Arc<Inner>, sending: Sending, answer: oneshot::Receiver<Answer>, metrics: ShadowMetrics) {
    let ending = router.tasks.stopping();
    let both = async { tokio::try_join!(answer, async { Ok(send(&router, sending).await) }) };
    let outcome = tokio::select! {
        both = both => both.map_or(ShadowOutcome::Abandoned, |(answer, of_shadow)| compare(answer, of_shadow)),
        () = ending.cancelled() => ShadowOutcome::Abandoned,
    };
    metrics.record(outcome);
}

async fn send(router: &Inner, sending: Sending) -> Answer {
    let Sending { chosen, span, message, deadline } = sending;
    let sent = async {
        let mut request = outgoing(message, deadline, span.context()).map_err(|error| status_of(&error))?;
        chosen.address(&mut request, None);
        request.metadata_mut().insert(MARK, MetadataValue::from_static("1"));
        chosen.ask(router, (span, deadline), request).await
    };
    within(deadline, sent).await.map(Response::into_inner).map_err(|status| status.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control API refuses a shadow of nothing, but need not have written it.
    #[test]
    fn as_many_of_a_hundred_draws_are_copied_as_the_route_says() {
        let copied = |percent| (0..100).filter(|draw| is_drawn(percent, *draw)).count();
        assert_eq!([0, 1, 99, 100].map(copied), [0, 1, 99, 100]);
    }

    #[test]
    fn room_is_bounded_in_copies_and_in_bytes() {
        let shadows = Shadows::default();
        let small = 5;
        let held: Vec<Room> = (0..MOST + 1).filter_map(|_| shadows.enter(small)).collect();
        assert_eq!((held.len(), shadows.left()), (MOST, 0));
        drop(held);
        let large = MOST_KIB * 1024 / 2;
        let first = shadows.enter(large).expect("it is empty");
        assert!(shadows.enter(large).is_none() && shadows.enter(small).is_some());
        assert_eq!(shadows.left(), MOST - 1, "who is turned away takes no room");
        drop(first);
        assert!(shadows.enter(large).is_some());
    }
}
