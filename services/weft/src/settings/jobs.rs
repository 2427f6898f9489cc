//! A scheduler's settings of jobs.

use std::time::Duration;

use weft_config::{ByteSize, Section, Setting};
use weft_scheduler::JobTargets;

/// What a scheduler is told of jobs.
#[derive(Clone, Debug)]
pub struct Jobs {
    /// The most jobs whose transitions go into one transaction.
    pub batch: usize,
    /// Where long values are kept: a folder or a bucket.
    pub payloads: Option<String>,
    /// How long a job is known after its end.
    pub retention: Duration,
    /// How large etcd may become.
    pub quota: ByteSize,
    /// The services that jobs may call.
    pub targets: Vec<String>,
}

/// Reads them; a mesh in one process may call services of its own machine.
pub(super) fn read(section: &mut Section<'_>, is_alone: bool) -> Jobs {
    let own = if is_alone { &["127.0.0.1", "[::1]", "localhost"][..] } else { &[] };
    let own = own.iter().map(|target| (*target).to_owned()).collect();
    let about =
        "services that jobs may call: host, host:port, *.domain or *.domain:port; with none jobs call only models";
    let targets = Setting::new("jobs-targets", own, about)
        .check("hosts, with ports or without", |targets: &Vec<String>| targets.join(",").parse::<JobTargets>().is_ok());
    let batch = Setting::new(
        "jobs-batch",
        100,
        "jobs whose transitions go into one transaction at most; 1 writes each alone, which is slower for many jobs",
    );
    Jobs {
        batch: section.get(batch.within(1, 100)),
        payloads: section.get(Setting::new(
            "jobs-payloads",
            None,
            "folder that all schedulers share, or s3://<bucket>/<prefix>, for values of jobs above 4 KiB; unset refuses them where the store is etcd",
        )),
        retention: section.get(
            Setting::new(
                "jobs-retention",
                Duration::from_secs(3_600),
                "how long a job and its key are known after its end",
            )
            .within(Duration::from_secs(1), Duration::from_secs(30 * 24 * 3_600)),
        ),
        quota: section.get(
            Setting::new(
                "jobs-quota",
                ByteSize::mib(2_048),
                "etcd's --quota-backend-bytes: from 75% of it no job begins, from 90% jobs only end",
            )
            .within(ByteSize::mib(1), ByteSize::mib(1 << 20)),
        ),
        targets: section.get(targets),
    }
}
