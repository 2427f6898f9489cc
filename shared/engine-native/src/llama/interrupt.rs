//! A step that is given up for a request which is more urgent than everybody in it.
//!
//! llama.cpp asks between two nodes of its graph whether to go on, on the thread that steps. What it has computed of the step by then is lost;
//! it takes the step's tokens out of its cache itself.

#![expect(unsafe_code, reason = "the callback's place is not reachable through the safe crate")]

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_sys_2::llama_context_params;

/// How `llama_decode` says that it was told to stop.
const ABORTED: DecodeError = DecodeError::Unknown(2);
/// Nodes before the end at which nothing is to be gained any more. The output layer is the last but few, and often the longest of all.
const LAST: u32 = 4;

/// What the thread that steps and those that send it requests tell each other.
#[derive(Debug)]
pub(super) struct Interrupt {
    /// The most urgent band of what has come since commands were last taken.
    arrived: AtomicU64,
    /// The step under way yields to bands below this one; 0 is nobody's band.
    yields: AtomicU64,
    /// Nodes that the step has computed.
    nodes: AtomicU32,
    /// Nodes of the last step that was computed whole.
    all: AtomicU32,
}

impl Default for Interrupt {
    fn default() -> Self {
        Self {
            arrived: AtomicU64::new(u64::MAX),
            yields: AtomicU64::new(0),
            nodes: AtomicU32::new(0),
            all: AtomicU32::new(0),
        }
    }
}

impl Interrupt {
    /// A request of this band can be taken.
    pub(super) fn arrived(&self, band: u64) {
        self.arrived.fetch_min(band, Ordering::Release);
    }

    /// All that has come is about to be taken.
    pub(super) fn taken(&self) {
        self.arrived.store(u64::MAX, Ordering::Release);
    }

    /// Runs a step that yields to whoever is more urgent than this band, if to anybody.
    pub(super) fn during<T>(&self, band: Option<u64>, step: impl FnOnce() -> Result<T, DecodeError>) -> Outcome<T> {
        self.nodes.store(0, Ordering::Relaxed);
        self.yields.store(band.unwrap_or(0), Ordering::Relaxed);
        let outcome = step();
        self.yields.store(0, Ordering::Relaxed);
        match outcome {
            Ok(done) => {
                self.all.store(self.nodes.load(Ordering::Relaxed), Ordering::Relaxed);
                Outcome::Done(done)
            }
            Err(ABORTED) => Outcome::GivenUp,
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Asked after each node: whether to stop here.
    fn asked(&self) -> bool {
        let done = self.nodes.load(Ordering::Relaxed) + 1;
        self.nodes.store(done, Ordering::Relaxed);
        self.arrived.load(Ordering::Acquire) < self.yields.load(Ordering::Relaxed)
            && done.saturating_add(LAST) <= self.all.load(Ordering::Relaxed)
    }
}

/// How a step has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<T> {
    Done(T),
    GivenUp,
    Failed(DecodeError),
}

/// Has contexts that are made with these settings ask. Nothing made with them may outlive the borrow.
pub(super) fn listen(params: &mut LlamaContextParams, interrupt: &Interrupt) {
    const { assert!(size_of::<LlamaContextParams>() == size_of::<llama_context_params>()) };
    const { assert!(align_of::<LlamaContextParams>() == align_of::<llama_context_params>()) };
    let inner: *mut llama_context_params = ptr::from_mut(params).cast();
    // SAFETY: the wrapper has one field, this one, and the same size, so it can stand nowhere but at the beginning; it is borrowed for writing.
    let inner = unsafe { &mut *inner };
    inner.abort_callback = Some(ask);
    inner.abort_callback_data = ptr::from_ref(interrupt).cast_mut().cast();
}

/// llama.cpp's callback.
unsafe extern "C" fn ask(interrupt: *mut c_void) -> bool {
    // SAFETY: `listen` gave it; whoever made the context keeps the borrow for as long as the context is there, and all of it is atomic.
    let interrupt = unsafe { &*interrupt.cast_const().cast::<Interrupt>() };
    interrupt.asked()
}
