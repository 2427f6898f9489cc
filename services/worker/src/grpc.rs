//! The worker's two services: conversion and look-up, no decisions.

mod admin;
mod describe;
mod inference;
mod wire;

pub use admin::Admin;
pub use wire::InferenceServer;

#[cfg(test)]
mod tests;
