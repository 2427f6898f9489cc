//! The engine of jobs, against worlds that fail in every way.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test's worlds need and lack is a failure of the test"
)]

#[path = "saga/answers.rs"]
mod answers;
#[path = "saga/build.rs"]
mod build;
#[path = "saga/checks.rs"]
mod checks;
#[path = "saga/coverage.rs"]
mod coverage;
#[path = "saga/exhaustive.rs"]
mod exhaustive;
#[path = "saga/hostile.rs"]
mod hostile;
#[path = "saga/judge.rs"]
mod judge;
#[path = "saga/matrix.rs"]
mod matrix;
#[path = "saga/plain.rs"]
mod plain;
#[path = "saga/random.rs"]
mod random;
#[path = "saga/regressions.rs"]
mod regressions;
#[path = "saga/shapes.rs"]
mod shapes;
#[path = "saga/world.rs"]
mod world;
