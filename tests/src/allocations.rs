//! Counts what a benchmark allocates, in the process that holds the mesh and its callers.
//!
//! A benchmark names [`Counting`] its `#[global_allocator]`. It counts only while it is told to: at other times a benchmark that
//! generates load pays a read of a flag for it, and nothing else.

#![expect(unsafe_code, reason = "an allocator can be written in no other way; this one hands every call on")]

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mimalloc::MiMalloc;

/// From this size on an allocation counts as large: no message of a few kilobytes needs one.
pub const LARGE: usize = 64 << 10;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static LARGE_ONES: AtomicU64 = AtomicU64::new(0);

/// The allocator that Weft itself uses, with a count.
pub struct Counting;

/// What was allocated while it was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// Allocations, and reallocations to a larger size.
    pub allocations: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of [`LARGE`] bytes and more.
    pub large: u64,
}

/// Begins to count, from zero.
pub fn start() {
    for counter in [&ALLOCATIONS, &BYTES, &LARGE_ONES] {
        counter.store(0, Ordering::Relaxed);
    }
    IS_COUNTING.store(true, Ordering::SeqCst);
}

/// Ends the count.
pub fn stop() -> Allocated {
    IS_COUNTING.store(false, Ordering::SeqCst);
    Allocated {
        allocations: ALLOCATIONS.load(Ordering::Relaxed),
        bytes: BYTES.load(Ordering::Relaxed),
        large: LARGE_ONES.load(Ordering::Relaxed),
    }
}

fn count(size: usize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(size as u64, Ordering::Relaxed);
        LARGE_ONES.fetch_add(u64::from(size >= LARGE), Ordering::Relaxed);
    }
}

// SAFETY: every call is handed on as it is to an allocator that keeps the contract; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer comes from the functions above, and so from that allocator, with this layout.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            count(size);
        }
        // SAFETY: as for `dealloc`; the caller keeps what is asked of `size`.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }
}
