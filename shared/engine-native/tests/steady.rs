//! What an execution allocates in the worker once everything is warm: nothing of the size of its tensors.

#![expect(unsafe_code, reason = "allocations are counted by an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use weft_engine::{DataType, Source, Spec, Tensor};
use weft_engine_native::{Host, HostOptions};
use weft_runtime::Tasks;

/// Half of what the test's tensors take.
const LARGE: usize = 512 << 10;

static LARGE_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: it does what the system's allocator does, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGE_ALLOCATIONS.fetch_add(usize::from(layout.size() >= LARGE), Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_execution_allocates_no_tensors() {
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().skip(1).map(|folder| folder.join("weft")).find(|path| path.is_file());
    let program = Some(program.expect("the weft binary is not built; run `make test`, or build the workspace first"));
    let host = Host::new(HostOptions { program, ..HostOptions::default() }, Tasks::new());
    let spec =
        Spec { name: "identity".to_owned(), source: Source::Builtin, max_batch_size: 0, parameters: BTreeMap::new() };
    let model = host.engine("builtin").load(&spec).await.unwrap();
    let data = Bytes::from((0..2 * LARGE).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    let input =
        Tensor { name: "INPUT".to_owned(), datatype: DataType::Uint8, shape: vec![data.len()], data: data.clone() };
    let execute = async || {
        let mut answers = model.execute(vec![vec![input.clone()]].into()).await.unwrap();
        answers.remove(0).unwrap().remove(0).data
    };
    for _ in 0..5 {
        assert!(execute().await == data);
    }
    let (allocations, pages) = (LARGE_ALLOCATIONS.load(Ordering::Relaxed), host.statistics().misses);
    for _ in 0..200 {
        assert!(execute().await == data);
    }
    assert_eq!(LARGE_ALLOCATIONS.load(Ordering::Relaxed) - allocations, 0, "tensors were allocated");
    assert_eq!(host.statistics().misses - pages, 0, "pages of shared memory were made");
    assert_eq!(host.statistics().in_use, 0);
}
