//! What the tests of the whole mesh share: a mesh in this process ([`mesh`]), real processes ([`process`]) over a real etcd
//! ([`etcd`]) with faults between them ([`proxy`]), a caller ([`calls`]), ONNX [`graphs`], a [`catalogue`] of many models, one of several [`versions`], steady load ([`load`]), an OTLP endpoint that keeps
//! what it gets ([`sink`]), a balancer in front of routers ([`envoy`]), what befalls a mesh whose etcd fails ([`outage`]), workers that are
//! records alone ([`placing`]) for schedulers whose [`leaders`] are killed, and a [`register`] that processes own in turn,
//! whose history is checked [`linearizable`]. Jobs call a [`ledger`], and everything goes wrong with their calls in a [`matrix`]. Benchmarks start foreign [`server`]s, ask the system about a process and its [`tree`], count
//! [`allocations`] and judge by [`goal`]s.

pub mod allocations;
pub mod calls;
pub mod catalogue;
pub mod chaos;
pub mod envoy;
pub mod etcd;
pub mod goal;
pub mod graphs;
pub mod http;
pub mod jobs;
pub mod leaders;
pub mod ledger;
pub mod linearizable;
pub mod load;
pub mod matrix;
pub mod mesh;
pub mod outage;
pub mod placing;
pub mod port;
pub mod process;
pub mod proxy;
pub mod register;
pub mod replicas;
pub mod server;
pub mod sink;
pub mod tools;
pub mod tree;
pub mod versions;
