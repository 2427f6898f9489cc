//! What is measured: one kind of work, sent to one place, with so many calls under way.

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// A tensor of so many bytes comes back as it is.
    Identity(usize),
    /// So many images are classified.
    Digits(usize),
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// The mesh, as callers use it: the router, and behind it the worker.
    Router,
    /// The same worker, without the router.
    Worker,
    /// The model's runtime in this process, without any mesh.
    Bare,
}

/// One cell of the table of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) work: Work,
    pub(crate) target: Target,
    /// How many calls are under way at any time.
    pub(crate) in_flight: usize,
}

/// 16 FP32 elements: what remains is the cost of a call.
pub(crate) const SMALL: Work = Work::Identity(64);
/// 16 embeddings of 1,024 FP32 elements.
pub(crate) const MEDIUM: Work = Work::Identity(64 << 10);
/// An image as vision models take it: FP32 of 3 x 224 x 224.
pub(crate) const LARGE: Work = Work::Identity(588 << 10);

pub(crate) const SIZES: [Work; 3] = [SMALL, MEDIUM, LARGE];
pub(crate) const IN_FLIGHT: [usize; 3] = [1, 8, 64];
pub(crate) const BARE_ROWS: [usize; 3] = [1, 8, 32];
/// Images of a call that brings its own batch, and how many such calls are under way.
pub(crate) const BATCHED: (Work, usize) = (Work::Digits(32), 8);

impl Cell {
    pub(crate) const fn router(work: Work, in_flight: usize) -> Self {
        Self { work, target: Target::Router, in_flight }
    }

    pub(crate) const fn worker(work: Work, in_flight: usize) -> Self {
        Self { work, target: Target::Worker, in_flight }
    }

    pub(crate) const fn bare(rows: usize) -> Self {
        Self { work: Work::Digits(rows), target: Target::Bare, in_flight: 1 }
    }

    /// All cells. Those that are compared with each other stand next to each other, so that they are measured close in time.
    pub(crate) fn all() -> Vec<Self> {
        let pairs = SIZES.into_iter().flat_map(|work| IN_FLIGHT.map(|in_flight| (work, in_flight)));
        let identity =
            pairs.flat_map(|(work, in_flight)| [Self::router(work, in_flight), Self::worker(work, in_flight)]);
        let digits = IN_FLIGHT.map(|in_flight| Self::router(Work::Digits(1), in_flight));
        let bare = BARE_ROWS.map(Self::bare);
        identity.chain(digits).chain(bare).chain([Self::router(BATCHED.0, BATCHED.1)]).collect()
    }
}
