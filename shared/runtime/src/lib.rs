//! The process around a service: its tasks, signals and drain, and the server that every Weft service listens with.
//!
//! A call's path: [`Server`] accepts a connection within its limits, hyper speaks HTTP/2 on it, the guard gives each call its
//! [`Call`] (deadline, trace, span), keeps it inside its deadline and turns a panic into `INTERNAL`, and the service's own
//! handler runs. Every server also answers health and reflection.

mod api;
mod body;
mod call;
mod connection;
mod guard;
mod health;
mod http;
mod limit;
mod listener;
mod load;
mod methods;
mod process;
mod record;
mod server;
mod tasks;

pub use api::Api;
pub use body::RequestBody;
pub use call::{Call, CallExt};
pub use health::Health;
pub use http::probes;
pub use load::{LoadReports, Trailer, told};
pub use process::{Drain, Process};
pub use server::{Server, ServerOptions};
pub use tasks::{Running, Tasks};
