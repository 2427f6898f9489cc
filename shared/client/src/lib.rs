//! How one Weft process reaches the others: who is there ([`Mesh`]), where their records stand ([`Keys`]), a connection to
//! one of them ([`Channel`]), what every call takes along ([`outgoing`], [`within`]), and a call whose messages are only passed on
//! ([`unary()`]).

mod body;
mod channel;
mod connect;
mod follow;
mod hop;
mod keys;
pub mod mesh;
mod saved;
pub mod tenant;
mod unary;
pub mod worker;

pub use body::ResponseBody;
pub use channel::{Channel, ChannelOptions, ChannelState};
pub use follow::Mesh;
pub use hop::{outgoing, prepare, within};
pub use keys::Keys;
pub use mesh::{Found, Record, ReplicaKey, Snapshot};
pub use saved::SavedFile;
pub use unary::{unary, unary_up_to};
