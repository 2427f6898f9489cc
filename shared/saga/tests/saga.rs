//! The engine of jobs, against worlds that fail in every way.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test's worlds need and lack is a failure of the test"
)]

#[path = "saga/build.rs"]
mod build;
#[path = "saga/plain.rs"]
mod plain;
