//! The tables and the goals.

use std::fmt::Write as _;

use anyhow::Result;
use weft_tests::goal::Goal;

use super::cell::{BARE_ROWS, BATCHED, Cell, IN_FLIGHT, LARGE, SIZES, SMALL, Work};
use super::deadline::Deadlines;
use super::load::Slice;
use super::plan::Plan;
use super::results::Results;

/// What a run has to tell; the goals come last.
pub(crate) fn text(plan: &Plan, results: &Results, deadlines: &Deadlines) -> Result<String> {
    let mut text = String::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    writeln!(
        text,
        "{} calls, all answered and right; medians of {} rounds of {} ms each; load and mesh share {cores} cores",
        results.calls(),
        plan.rounds,
        plan.slice.as_millis(),
    )?;
    identity(&mut text, results)?;
    digits(&mut text, results)?;
    writeln!(
        text,
        "\n{} calls for ten minutes of work within 200 ms: all ended with DEADLINE_EXCEEDED, p99 {:.2} ms from the deadline; \
         the model had stopped at most {:.1} ms after (p99)",
        deadlines.calls, deadlines.off_p99_ms, deadlines.stop_p99_ms,
    )?;
    writeln!(text)?;
    let ends = [
        Goal::at_most("deadline_exceeded_off_p99_ms", 10.0, deadlines.off_p99_ms),
        Goal::at_most("work_stopped_after_p99_ms", 20.0, deadlines.stop_p99_ms),
    ];
    for goal in goals(results).iter().chain(&ends) {
        writeln!(text, "{}", goal.line())?;
    }
    Ok(text)
}

fn identity(text: &mut String, results: &Results) -> Result<()> {
    writeln!(
        text,
        "\nidentity, through router and worker against directly to the worker (p50 and processor time in us)"
    )?;
    writeln!(
        text,
        "   bytes in flight  through/s   direct/s  ratio  p50 through  p50 direct  added  cpu through  cpu direct"
    )?;
    for work in SIZES {
        for in_flight in IN_FLIGHT {
            let (through, direct) = (Cell::router(work, in_flight), Cell::worker(work, in_flight));
            writeln!(
                text,
                "{:>8} {in_flight:>9} {:>10.0} {:>10.0} {:>6.2} {:>12.0} {:>11.0} {:>6.0} {:>12} {:>11}",
                size(work),
                results.median(through, Slice::calls_per_second),
                results.median(direct, Slice::calls_per_second),
                results.rate_ratio(through, direct),
                results.median(through, |slice| slice.percentile_us(50)),
                results.median(direct, |slice| slice.percentile_us(50)),
                results.added_us(through, direct),
                cpu(results, through),
                cpu(results, direct),
            )?;
        }
    }
    Ok(())
}

fn digits(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "\ndigits, through router and worker (p50, p99 and processor time in us)")?;
    writeln!(text, "images/call in flight    calls/s   images/s      p50      p99  cpu/call")?;
    let single = IN_FLIGHT.map(|in_flight| Cell::router(Work::Digits(1), in_flight));
    for cell in single.into_iter().chain([Cell::router(BATCHED.0, BATCHED.1)]) {
        writeln!(
            text,
            "{:>11} {:>9} {:>10.0} {:>10.0} {:>8.0} {:>8.0} {:>9}",
            size(cell.work),
            cell.in_flight,
            results.median(cell, Slice::calls_per_second),
            images_per_second(results, cell),
            results.median(cell, |slice| slice.percentile_us(50)),
            results.median(cell, |slice| slice.percentile_us(99)),
            cpu(results, cell),
        )?;
    }
    writeln!(text, "\ndigits, one bare loop over the same runtime in one process")?;
    writeln!(text, "      batch   images/s      p50")?;
    for cell in BARE_ROWS.map(Cell::bare) {
        let (images, p50) = (images_per_second(results, cell), results.median(cell, |slice| slice.percentile_us(50)));
        writeln!(text, "{:>11} {images:>10.0} {p50:>8.0}", size(cell.work))?;
    }
    for in_flight in IN_FLIGHT {
        let ratio = results.rate_ratio(Cell::router(Work::Digits(1), in_flight), Cell::bare(1));
        writeln!(text, "mesh at {in_flight} in flight / bare loop at batch 1: {ratio:.2}")?;
    }
    let (rows, ratio) = (size(BATCHED.0), results.rate_ratio(Cell::router(BATCHED.0, BATCHED.1), Cell::bare(32)));
    writeln!(text, "mesh with {rows} images a call, {} in flight / bare loop at batch 32: {ratio:.2}", BATCHED.1)?;
    Ok(())
}

fn goals(results: &Results) -> Vec<Goal> {
    let through = |in_flight| Cell::router(Work::Digits(1), in_flight);
    let ratio = |work, in_flight| results.rate_ratio(Cell::router(work, in_flight), Cell::worker(work, in_flight));
    vec![
        Goal::at_most(
            "added_p50_us_64B_1_in_flight",
            150.0,
            results.added_us(Cell::router(SMALL, 1), Cell::worker(SMALL, 1)),
        ),
        // A second hop may double the time. Unlike the microseconds, this hardly depends on how fast idle processors wake.
        Goal::at_most(
            "through_to_direct_p50_64B_1_in_flight",
            2.0,
            results.p50_ratio(Cell::router(SMALL, 1), Cell::worker(SMALL, 1)),
        ),
        Goal::at_least("through_to_direct_calls_64B_64_in_flight", 0.5, ratio(SMALL, 64)),
        Goal::at_least("through_to_direct_calls_588KiB_8_in_flight", 0.4, ratio(LARGE, 8)),
        Goal::at_least(
            "digits_mesh_64_in_flight_to_bare_batch_1",
            0.25,
            results.rate_ratio(through(64), Cell::bare(1)),
        ),
        Goal::at_least("digits_calls_64_in_flight_to_1", 2.0, results.rate_ratio(through(64), through(1))),
    ]
}

fn images_per_second(results: &Results, cell: Cell) -> f64 {
    results.median(cell, Slice::calls_per_second) * size(cell.work) as f64
}

/// Bytes of a tensor, or images of a call.
const fn size(work: Work) -> usize {
    match work {
        Work::Identity(bytes) => bytes,
        Work::Digits(images) => images,
    }
}

fn cpu(results: &Results, cell: Cell) -> String {
    results.cpu_us(cell).map_or_else(|| "-".to_owned(), |spent| format!("{spent:.0}"))
}
