//! What must hold for any bytes that a peer may send. Each module is one target: `check` asserts, `seeds` are bytes to begin with.

pub mod frame;
pub mod headers;
pub mod message;
