//! Memory that a worker shares with one engine process: tensors stand in it and cross without a copy.
//!
//! The worker alone hands out its parts, as [`Buffer`]s that begin at multiples of a page. The engine process is told where a buffer
//! begins, and forgets it when it has answered. A buffer that holds answers becomes [`Bytes`], whose last slice gives it back.
#![expect(unsafe_code, reason = "a buffer is a part of shared memory that nobody else uses")]

mod memory;
mod slots;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::Notify;

pub(crate) use memory::Memory;
pub use slots::Statistics;
use slots::{Refusal, Slot, Slots};

/// What tensors are aligned to within a buffer: a line of the cache, and the widest register.
pub(crate) const ALIGNMENT: u64 = 64;

/// The share of an arena that answers may hold: the rest is always free for work, however slowly answers are read.
const PINNED_SHARE: u64 = 4;

/// The shared memory of one engine process. Clones are the same memory.
#[derive(Clone, Debug)]
pub(crate) struct Arena(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: u64,
    memory: Memory,
    slots: Mutex<Slots>,
    given_back: Notify,
    /// Bytes of answers that stand here for as long as anybody reads them.
    pinned: AtomicU64,
}

/// There is not, and never will be, room for what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Arena {
    /// Memory of which at most `limit` bytes are in use at once. Pages are made when they are first written.
    pub(crate) fn try_new(limit: u64) -> io::Result<Self> {
        let slots = Slots::new(limit);
        let memory = Memory::create(slots.span())?;
        if let Some(start) = slots.huge() {
            memory.prefer_huge(start);
        }
        let limit = slots.limit();
        Ok(Self(Arc::new(Inner {
            limit,
            memory,
            slots: Mutex::new(slots),
            given_back: Notify::new(),
            pinned: AtomicU64::new(0),
        })))
    }

    /// How it is used, for as long as it is there.
    pub(crate) fn gauge(&self) -> Gauge {
        Gauge(Arc::downgrade(&self.0))
    }

    /// The most bytes in use at once.
    pub(crate) fn limit(&self) -> u64 {
        self.0.limit
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// Buffers of these lengths, all at once: who held one and waited for another could wait for ever. Waits until others are
    /// given back; dropping the future takes nothing.
    pub(crate) async fn take<const N: usize>(&self, lengths: [u64; N]) -> Result<[Buffer; N], TooLarge> {
        loop {
            let given_back = self.0.given_back.notified();
            tokio::pin!(given_back);
            // Listening begins before looking, so that what is given back in between is not missed.
            given_back.as_mut().enable();
            match self.try_take(lengths) {
                Ok(buffers) => return Ok(buffers),
                Err(Refusal::Never) => return Err(TooLarge),
                Err(Refusal::Now) => given_back.await,
            }
        }
    }

    fn try_take<const N: usize>(&self, lengths: [u64; N]) -> Result<[Buffer; N], Refusal> {
        let mut slots = self.0.slots();
        let (mut released, mut taken) = (Vec::new(), lengths.map(|_| None));
        let mut refusal = None;
        for (slot, length) in taken.iter_mut().zip(lengths) {
            match slots.take(length, &mut released) {
                Ok(found) => *slot = Some(found),
                Err(refused) => {
                    refusal = Some(refused);
                    break;
                }
            }
        }
        if refusal.is_some() {
            let took_some = taken.iter().any(Option::is_some);
            taken.iter_mut().filter_map(Option::take).for_each(|slot| slots.give(slot, &mut released));
            // What does not fit although nobody else holds anything never will.
            if slots.statistics().in_use == 0 && took_some {
                refusal = Some(Refusal::Never);
            }
        }
        // Under the lock: a slot must not be taken by another while its pages go.
        released.iter().for_each(|range| self.0.memory.release(range));
        drop(slots);
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let mut lengths = lengths.into_iter();
        let buffer = |slot| Buffer { arena: Arc::clone(&self.0), slot, length: lengths.next().unwrap_or(0) };
        Ok(taken.map(buffer))
    }
}

/// Tells how an arena is used, without keeping it.
#[derive(Clone, Debug)]
pub(crate) struct Gauge(Weak<Inner>);

impl Gauge {
    /// `None` once the arena is gone.
    pub(crate) fn read(&self) -> Option<Statistics> {
        self.0.upgrade().map(|arena| arena.slots().statistics())
    }
}

impl Inner {
    /// A poisoned lock guards plain numbers that are whole at every step.
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an answer that stays here, if there is room for it.
    fn pin(&self, length: u64) -> bool {
        let most = self.limit / PINNED_SHARE;
        let add = |pinned: u64| pinned.checked_add(length).filter(|pinned| *pinned <= most);
        self.pinned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }
}

/// A part of an arena that nobody else in this process uses. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Buffer {
    arena: Arc<Inner>,
    /// `None` only after the drop.
    slot: Option<Slot>,
    length: u64,
}

impl Buffer {
    /// Where it begins in the arena.
    pub(crate) fn offset(&self) -> u64 {
        self.slot.as_ref().map_or(0, Slot::offset)
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Its bytes, before the other process is told of it.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let (offset, length) = (self.offset(), self.length);
        // SAFETY: the slot is this buffer's alone, and `self` is borrowed mutably for as long as the slice lives.
        unsafe { self.arena.memory.bytes_mut(offset, length) }.unwrap_or_default()
    }

    /// The first bytes, for reading, once the other process has written them and forgotten the buffer. The rest counts as free. They
    /// stay where they are unless much is being read already: then they are copied, and the buffer is given back at once.
    pub(crate) fn freeze(mut self, used: u64) -> Bytes {
        self.length = used.min(self.length);
        if let Some(slot) = &mut self.slot {
            self.arena.slots().shrink(slot, self.length);
            self.arena.given_back.notify_waiters();
        }
        match self.arena.pin(self.length) {
            true => Bytes::from_owner(Frozen(self)),
            false => Bytes::copy_from_slice(self.bytes()),
        }
    }

    /// Its bytes, once the other process has forgotten it.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the slot is this buffer's alone, and a buffer that is written is borrowed mutably.
        unsafe { self.arena.memory.bytes(self.offset(), self.length) }.unwrap_or_default()
    }
}

impl Drop for Buffer {
    // Runs however a call ends, so that nothing leaks.
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut released = Vec::new();
        {
            let mut slots = self.arena.slots();
            slots.give(slot, &mut released);
            released.iter().for_each(|range| self.arena.memory.release(range));
        }
        self.arena.given_back.notify_waiters();
    }
}

struct Frozen(Buffer);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.arena.pinned.fetch_sub(self.0.length, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> Arena {
        Arena::try_new(1 << 20).unwrap()
    }

    fn in_use(arena: &Arena) -> u64 {
        arena.gauge().read().unwrap().in_use
    }

    #[tokio::test]
    async fn the_last_slice_gives_the_buffer_back() {
        let arena = arena();
        let [mut buffer] = arena.take([10_000]).await.unwrap();
        assert_eq!(buffer.offset() % ALIGNMENT, 0);
        buffer.bytes_mut()[..4].copy_from_slice(b"weft");
        let bytes = buffer.freeze(4);
        assert_eq!(in_use(&arena), 4096, "the unused rest is counted");
        let slice = bytes.slice(1..3);
        drop(bytes);
        assert_eq!((&slice[..], in_use(&arena)), (&b"ef"[..], 4096));
        drop(slice);
        assert_eq!(in_use(&arena), 0);
    }

    #[tokio::test]
    async fn answers_that_nobody_reads_leave_room_for_work() {
        let arena = arena();
        let mut answers = Vec::new();
        for mark in 0..8 {
            let [mut buffer] = arena.take([128 << 10]).await.unwrap();
            buffer.bytes_mut().fill(mark);
            answers.push(buffer.freeze(u64::MAX));
        }
        assert_eq!(in_use(&arena), 256 << 10);
        assert!(futures_util::FutureExt::now_or_never(arena.take([768 << 10])).is_some(), "work waits for a reader");
        for (mark, answer) in answers.drain(..).zip(0..8).map(|(answer, mark)| (mark, answer)) {
            assert!(answer.len() == 128 << 10 && answer.iter().all(|byte| *byte == mark), "answer {mark}");
        }
        assert_eq!(in_use(&arena), 0);
        let [buffer] = arena.take([128 << 10]).await.unwrap();
        let answer = buffer.freeze(u64::MAX);
        assert_eq!(in_use(&arena), 128 << 10, "what is read no more still counts");
        drop(answer);
    }

    #[tokio::test]
    async fn waits_for_room_and_refuses_what_never_fits() {
        let arena = arena();
        assert_eq!(arena.take([2 << 20]).await.err(), Some(TooLarge));
        assert_eq!(arena.take([600 << 10, 600 << 10]).await.err(), Some(TooLarge), "together they never fit");
        let [held] = arena.take([800 << 10]).await.unwrap();
        let mut waiting = Box::pin(arena.take([100 << 10, 300 << 10]));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(in_use(&arena), 800 << 10, "who waits holds something");
        drop(held);
        let lengths = waiting.await.map(|buffers| buffers.map(|buffer| buffer.length()));
        assert_eq!(lengths, Ok([100 << 10, 300 << 10]));
        assert_eq!(in_use(&arena), 0);
    }

    #[tokio::test]
    async fn another_mapping_sees_the_same_bytes_and_pages_go_back() {
        let arena = arena();
        let other = Memory::open(arena.memory().file().try_clone_to_owned().unwrap()).unwrap();
        let [mut buffer] = arena.take([700 << 10]).await.unwrap();
        buffer.bytes_mut().fill(7);
        // SAFETY: the buffer is not written while this reads.
        let seen = unsafe { other.bytes(buffer.offset(), buffer.length()) }.unwrap();
        assert!(seen.iter().all(|byte| *byte == 7));
        let resident = || rustix::fs::fstat(arena.memory().file()).unwrap().st_blocks * 512;
        assert!(resident() >= 700 << 10);
        drop(buffer);
        assert!(resident() <= 512 << 10, "{} bytes are kept", resident());
    }

    #[test]
    fn nobody_can_cut_the_memory_off() {
        let arena = arena();
        assert!(rustix::fs::ftruncate(arena.memory().file(), 0).is_err());
        assert_eq!(arena.memory().part(u64::MAX / 2, 1), None);
        assert_eq!(arena.memory().part(u64::MAX, 2), None);
    }
}
