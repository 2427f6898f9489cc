//! How fast this machine reads memory: what no generated token can be faster than.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Result, anyhow};
use weft_types::SystemClock;

/// Far larger than any cache.
const BYTES: usize = 256 << 20;

/// Bytes a second that so many threads read together, the best of some tries.
pub(crate) fn measure(threads: usize) -> Result<f64> {
    let memory: Vec<u64> = (0..BYTES as u64 / 8).collect();
    let best = (0..5).map(|_| read(&memory, threads)).collect::<Result<Vec<_>>>()?.into_iter().min();
    Ok(BYTES as f64 / best.unwrap_or(Duration::MAX).as_secs_f64())
}

fn read(memory: &[u64], threads: usize) -> Result<Duration> {
    let started = SystemClock::now();
    std::thread::scope(|scope| {
        let parts: Vec<_> = memory
            .chunks(memory.len().div_ceil(threads))
            .map(|part| scope.spawn(|| black_box(part.iter().fold(0, |sum: u64, word| sum ^ word))))
            .collect();
        parts.into_iter().try_for_each(|part| part.join().map(drop).map_err(|_| anyhow!("a reader panicked")))
    })?;
    Ok(SystemClock::now().saturating_duration_since(started))
}
