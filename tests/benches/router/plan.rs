//! How long each cell is measured, how often, and in which order.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use weft_tests::load::closed::{self, Slice};
use weft_tests::load::rounds::Rounds;
use weft_tests::tree;

use super::cell::{Cell, IN_FLIGHT, SIZES, echo};
use super::peers::Way;

/// What can be run, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Against other proxies.
    Peers,
    /// One of four workers is much slower.
    Skew,
    /// More calls come than the workers can do.
    Goodput,
    /// Workers and routers die, stand still and restart.
    Faults,
    /// Tens of thousands of connections that say nothing.
    Idle,
}

impl Part {
    const ALL: [Self; 5] = [Self::Peers, Self::Skew, Self::Goodput, Self::Faults, Self::Idle];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Skew => "skew",
            Self::Goodput => "goodput",
            Self::Faults => "faults",
            Self::Idle => "idle",
        }
    }
}

/// The course of one run.
pub(crate) struct Plan {
    pub(crate) full: bool,
    pub(crate) parts: Vec<Part>,
}

impl Plan {
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let (mut full, mut parts) = (false, Vec::new());
        for argument in arguments {
            match argument.as_str() {
                "--full" => full = true,
                // Cargo says it to every benchmark.
                "--bench" => {}
                other => match Part::ALL.into_iter().find(|part| part.name() == other) {
                    Some(part) => parts.push(part),
                    None => bail!(
                        "unknown argument '{other}'; there are --full and {}",
                        Part::ALL.map(Part::name).join(", ")
                    ),
                },
            }
        }
        let parts = if parts.is_empty() { Part::ALL.to_vec() } else { parts };
        Ok(Self { full, parts })
    }

    pub(crate) const fn rounds(&self) -> usize {
        if self.full { 9 } else { 4 }
    }

    /// How long a cell is measured in a round.
    pub(crate) const fn slice(&self) -> Duration {
        Duration::from_millis(if self.full { 1000 } else { 400 })
    }

    /// Measures every cell in every round, the ways to the worker next to each other and every second round backwards. A slice in
    /// which a peer failed a call is left out and told of; a call that we fail ends the run.
    pub(crate) async fn run(&self, ways: &[Way]) -> Result<(Rounds<Cell>, Vec<String>)> {
        let (mut rounds, mut failed) = (Rounds::default(), Vec::new());
        let cases = SIZES.map(echo);
        for round in 0..=self.rounds() {
            for (bytes, cases) in SIZES.iter().zip(&cases) {
                for in_flight in IN_FLIGHT {
                    let mut order: Vec<&Way> = ways.iter().collect();
                    if round % 2 == 1 {
                        order.reverse();
                    }
                    for way in order {
                        // The round before the first opens connections and is not counted.
                        let lasting = if round == 0 { Duration::from_millis(100) } else { self.slice() };
                        let before = tree::processor_time(way.process);
                        let slice = closed::run(&way.caller, cases, in_flight, lasting).await;
                        let named = || format!("{}, {bytes} B, {in_flight} in flight", way.proxy.name());
                        let slice = match slice.with_context(named) {
                            Err(error) if way.is_foreign() => {
                                failed.push(format!("a slice is left out: {error:#}"));
                                continue;
                            }
                            slice => slice?,
                        };
                        let cpu = Some(tree::processor_time(way.process).saturating_sub(before));
                        if round > 0 {
                            rounds.add((*bytes, in_flight, way.proxy), Slice { cpu, ..slice });
                        }
                    }
                }
            }
        }
        Ok((rounds, failed))
    }
}
