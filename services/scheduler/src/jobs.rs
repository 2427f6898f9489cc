//! Jobs: several models and outside services under one deadline, undone when they cannot finish.
//!
//! [`definition`] checks what is submitted and makes a [`Plan`] of it, [`template`] makes values of values, and [`act`] does what steps say:
//! it calls models and other services, and has models held.

pub(crate) mod act;
pub(crate) mod definition;
pub(crate) mod template;

pub use definition::Targets;
pub(crate) use definition::{Plan, Submitted, compile, definition_of};
