//! Real processes over a real etcd, started, killed and drained as operators and accidents do it.

mod processes {
    mod access;
    mod cluster;
    mod cordon;
    mod demo;
    mod drain;
    mod ejection;
    mod envoy;
    mod hostile;
    mod jobs;
    mod language;
    mod leader;
    mod loss;
    mod matrix;
    mod memory;
    mod operations;
    mod outage;
    mod records;
    mod rollouts;
    mod scaling;
    mod sequences;
    mod values;
}
