//! Slices of time, measured in rounds: figures are medians over the rounds, and comparisons are made within a round.

use std::collections::BTreeMap;
use std::time::Duration;

use super::closed::Slice;

/// The slices of every cell of a table, by round.
pub struct Rounds<Cell> {
    slices: BTreeMap<Cell, Vec<Slice>>,
}

impl<Cell> Default for Rounds<Cell> {
    fn default() -> Self {
        Self { slices: BTreeMap::new() }
    }
}

impl<Cell: Copy + Ord> Rounds<Cell> {
    /// Adds the slice of another round.
    pub fn add(&mut self, cell: Cell, slice: Slice) {
        self.slices.entry(cell).or_default().push(slice);
    }

    /// The median over the rounds.
    pub fn median(&self, cell: Cell, figure: impl Fn(&Slice) -> f64) -> f64 {
        median(self.of(cell).iter().map(figure).collect())
    }

    /// The median over the rounds of a figure that compares two cells within a round.
    pub fn compare(&self, one: Cell, other: Cell, figure: impl Fn(&Slice, &Slice) -> f64) -> f64 {
        median(self.of(one).iter().zip(self.of(other)).map(|(one, other)| figure(one, other)).collect())
    }

    /// How many times as many calls a cell makes as another.
    pub fn rate_ratio(&self, one: Cell, other: Cell) -> f64 {
        self.compare(one, other, |one, other| one.calls_per_second() / other.calls_per_second())
    }

    /// How many times as long half of the calls take as in another cell.
    pub fn p50_ratio(&self, one: Cell, other: Cell) -> f64 {
        self.compare(one, other, |one, other| one.percentile_us(50) / other.percentile_us(50))
    }

    /// Microseconds that half of the calls take more than in another cell.
    pub fn added_us(&self, one: Cell, other: Cell) -> f64 {
        self.compare(one, other, |one, other| one.percentile_us(50) - other.percentile_us(50))
    }

    /// The server's processor time per call in microseconds, over all rounds: the system counts it too coarsely for one.
    pub fn cpu_us(&self, cell: Cell) -> Option<f64> {
        let spent = self.of(cell).iter().map(|slice| slice.cpu).sum::<Option<Duration>>()?;
        let calls: usize = self.of(cell).iter().map(|slice| slice.times.len()).sum();
        Some(spent.as_secs_f64() * 1e6 / calls as f64)
    }

    /// Calls that were made and found right.
    pub fn calls(&self) -> usize {
        self.slices.values().flatten().map(|slice| slice.times.len()).sum()
    }

    fn of(&self, cell: Cell) -> &[Slice] {
        self.slices.get(&cell).map_or(&[], Vec::as_slice)
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.get(middle) {
        Some(upper) if figures.len().is_multiple_of(2) => f64::midpoint(figures[middle - 1], *upper),
        Some(middle) => *middle,
        None => f64::NAN,
    }
}
