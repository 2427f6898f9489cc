//! How long each cell is measured, how often, and in which order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::cell::{Cell, Work};
use super::load::{Case, cases};
use super::results::Results;
use super::subject::Subject;

/// The course of one run.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
    /// Before the first round each cell runs for so long uncounted: connections open, plans are made, tables are learned.
    warm_up: Duration,
}

impl Plan {
    /// About two and a half minutes.
    pub(crate) const fn full() -> Self {
        Self { rounds: 7, slice: Duration::from_millis(700), warm_up: Duration::from_millis(200) }
    }

    /// About ten seconds; enough to see that it works, not for figures.
    pub(crate) const fn quick() -> Self {
        Self { rounds: 2, slice: Duration::from_millis(120), warm_up: Duration::from_millis(40) }
    }

    /// Measures every cell in every round.
    pub(crate) async fn run(&self, subject: &Subject) -> Result<Results> {
        let mut cells = Cell::all();
        let requests: BTreeMap<Work, Arc<[Case]>> = cells.iter().map(|cell| (cell.work, cases(cell.work))).collect();
        for cell in &cells {
            subject.measure(*cell, &requests[&cell.work], self.warm_up).await?;
        }
        let mut results = Results::default();
        for _ in 0..self.rounds {
            for cell in &cells {
                results.add(*cell, subject.measure(*cell, &requests[&cell.work], self.slice).await?);
            }
            cells.reverse();
        }
        Ok(results)
    }
}
