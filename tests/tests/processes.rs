//! Real processes over a real etcd, started, killed and drained as operators and accidents do it.

mod processes {
    mod access;
    mod cluster;
    mod demo;
    mod drain;
    mod ejection;
    mod envoy;
    mod hostile;
    mod language;
    mod loss;
    mod memory;
    mod outage;
    mod records;
    mod rollouts;
    mod sequences;
}
