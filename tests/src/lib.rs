//! What the tests of the whole mesh share: a mesh in this process ([`mesh`]), real processes ([`process`]) over a real etcd
//! ([`etcd`]), a caller ([`calls`]), steady load ([`load`]) and an OTLP endpoint that keeps what it gets ([`sink`]).

pub mod calls;
pub mod etcd;
pub mod http;
pub mod load;
pub mod mesh;
pub mod process;
pub mod sink;
pub mod tools;
