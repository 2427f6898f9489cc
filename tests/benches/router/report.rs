//! The tables and the goals.

use std::fmt::Write as _;

use anyhow::Result;
use weft_tests::goal::Goal;
use weft_tests::load::closed::Slice;
use weft_tests::load::rounds::Rounds;

use super::cell::{Cell, IN_FLIGHT, LARGE, SIZES, SMALL, Via};
use super::copies::Copied;
use super::plan::Plan;

/// What a run has to tell, with what it could not measure; the goals come last.
pub(crate) fn text(plan: &Plan, results: &Rounds<Cell>, told: &[String], copied: &Copied) -> Result<String> {
    let mut text = String::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    writeln!(
        text,
        "{} calls, all answered and right; {} rounds of {} ms each; generator, proxies and worker share {cores} cores",
        results.calls(),
        plan.rounds(),
        plan.slice().as_millis(),
    )?;
    for reason in told {
        writeln!(text, "{reason}")?;
    }
    writeln!(text, "\nprocessor time of the proxy's process per call, p50 and p99 in us; of bare, the worker's own")?;
    writeln!(
        text,
        "   bytes in flight proxy      calls/s  cpu/call      p50      p99  cpu of weft's  calls/s of weft's"
    )?;
    for (bytes, in_flight) in SIZES.into_iter().flat_map(|bytes| IN_FLIGHT.map(|in_flight| (bytes, in_flight))) {
        for proxy in Via::ALL {
            line(&mut text, results, (bytes, in_flight, proxy))?;
        }
    }
    let calls = copied.calls as f64;
    writeln!(
        text,
        "\nthe router alone, {LARGE} B: {:.0} allocations and {:.0} bytes a call; of 64 KiB and more: {:.3} a call ({} in {} calls)\n",
        copied.allocated.allocations as f64 / calls,
        copied.allocated.bytes as f64 / calls,
        copied.allocated.large as f64 / calls,
        copied.allocated.large,
        copied.calls,
    )?;
    for goal in goals(results, copied) {
        writeln!(text, "{}", goal.line())?;
    }
    Ok(text)
}

fn line(text: &mut String, results: &Rounds<Cell>, cell: Cell) -> Result<()> {
    let (bytes, in_flight, proxy) = cell;
    let weft = (bytes, in_flight, Via::Weft);
    let cpu = if proxy == Via::Bare { f64::NAN } else { cpu_ratio(results, cell, weft) };
    Ok(writeln!(
        text,
        "{bytes:>8} {in_flight:>9} {:<8} {:>9.0} {:>9.1} {:>8.0} {:>8.0} {cpu:>14.2} {:>18.2}",
        proxy.name(),
        results.median(cell, Slice::calls_per_second),
        results.cpu_us(cell).unwrap_or(f64::NAN),
        results.median(cell, |slice| slice.percentile_us(50)),
        results.median(cell, |slice| slice.percentile_us(99)),
        results.rate_ratio(cell, weft),
    )?)
}

/// How many times the processor time per call of another cell's proxy one takes; not a number where one was not measured.
fn cpu_ratio(results: &Rounds<Cell>, one: Cell, other: Cell) -> f64 {
    let of = |cell| results.cpu_us(cell).unwrap_or(f64::NAN);
    of(one) / of(other)
}

fn goals(results: &Rounds<Cell>, copied: &Copied) -> Vec<Goal> {
    let cpu = |bytes, in_flight, proxy| cpu_ratio(results, (bytes, in_flight, Via::Weft), (bytes, in_flight, proxy));
    let added = results.added_us((SMALL, 1, Via::Weft), (SMALL, 1, Via::Bare));
    vec![
        Goal::at_most("router_cpu_to_envoy_64B_64_in_flight", 0.35, cpu(SMALL, 64, Via::Envoy)),
        Goal::at_most("router_cpu_to_nginx_64B_64_in_flight", 0.6, cpu(SMALL, 64, Via::Nginx)),
        Goal::at_most("router_added_p50_us_64B_1_in_flight", 90.0, added),
        Goal::at_most("router_cpu_to_nginx_588KiB_64_in_flight", 1.1, cpu(LARGE, 64, Via::Nginx)),
        Goal::at_most("router_cpu_to_envoy_588KiB_64_in_flight", 0.6, cpu(LARGE, 64, Via::Envoy)),
        Goal::at_most(
            "router_large_allocations_per_call_588KiB",
            0.0,
            copied.allocated.large as f64 / copied.calls as f64,
        ),
    ]
}
