//! The worker's two services: conversion and look-up, no decisions.

mod admin;
mod describe;
mod inference;
mod stream;
mod wire;

pub use admin::Admin;
pub use wire::InferenceServer;

#[cfg(test)]
pub(crate) mod tests;
