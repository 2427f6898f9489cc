//! The binary's parts: [`settings`] reads the command line, [`wiring`] picks the adapters, [`process`] holds what every service
//! shares, [`role`] starts each service, [`dev`] starts all four, [`demo`] calls them.

mod cli;
pub mod demo;
pub mod dev;
mod output;
pub mod process;
pub mod role;
pub mod settings;
pub mod wiring;

pub use cli::run;
