//! All slices of a run, and the figures that come out of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cell::Cell;
use super::load::Slice;

/// The slices of every cell, by round.
#[derive(Default)]
pub(crate) struct Results {
    slices: BTreeMap<Cell, Vec<Slice>>,
}

impl Results {
    pub(crate) fn add(&mut self, cell: Cell, slice: Slice) {
        self.slices.entry(cell).or_default().push(slice);
    }

    /// The median over the rounds.
    pub(crate) fn median(&self, cell: Cell, figure: impl Fn(&Slice) -> f64) -> f64 {
        median(self.of(cell).iter().map(figure).collect())
    }

    /// The median over the rounds of a figure that compares two cells within a round.
    pub(crate) fn compare(&self, one: Cell, other: Cell, figure: impl Fn(&Slice, &Slice) -> f64) -> f64 {
        median(self.of(one).iter().zip(self.of(other)).map(|(one, other)| figure(one, other)).collect())
    }

    /// How many times as many calls a cell makes as another.
    pub(crate) fn rate_ratio(&self, one: Cell, other: Cell) -> f64 {
        self.compare(one, other, |one, other| one.calls_per_second() / other.calls_per_second())
    }

    /// How many times as long half of the calls take as in another cell.
    pub(crate) fn p50_ratio(&self, one: Cell, other: Cell) -> f64 {
        self.compare(one, other, |one, other| one.percentile_us(50) / other.percentile_us(50))
    }

    /// Microseconds that half of the calls take more than in another cell.
    pub(crate) fn added_us(&self, one: Cell, other: Cell) -> f64 {
        self.compare(one, other, |one, other| one.percentile_us(50) - other.percentile_us(50))
    }

    /// The mesh's processor time per call in microseconds, over all rounds: the system counts it too coarsely for one.
    pub(crate) fn cpu_us(&self, cell: Cell) -> Option<f64> {
        let spent = self.of(cell).iter().map(|slice| slice.cpu).sum::<Option<Duration>>()?;
        let calls: usize = self.of(cell).iter().map(|slice| slice.times.len()).sum();
        Some(spent.as_secs_f64() * 1e6 / calls as f64)
    }

    /// Calls that were made and found right.
    pub(crate) fn calls(&self) -> usize {
        self.slices.values().flatten().map(|slice| slice.times.len()).sum()
    }

    fn of(&self, cell: Cell) -> &[Slice] {
        self.slices.get(&cell).map_or(&[], Vec::as_slice)
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.get(middle) {
        Some(upper) if figures.len().is_multiple_of(2) => f64::midpoint(figures[middle - 1], *upper),
        Some(middle) => *middle,
        None => f64::NAN,
    }
}
