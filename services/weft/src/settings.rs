//! Every setting of every subcommand, with its default and the reason for it.

mod jobs;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_config::{ByteSize, Reader, Section, Setting, Value as _};
use weft_runtime::ServerOptions;
use weft_telemetry::LogFormat;
use weft_types::{ModelName, WorkerId};

pub use jobs::Jobs;

/// What every process has.
#[derive(Clone, Debug)]
pub struct Common {
    /// The cluster's name: the part of the store that is ours.
    pub cluster: String,
    /// etcd's endpoints; none means the embedded store.
    pub etcd: Vec<String>,
    /// How etcd and this process know each other.
    pub etcd_access: EtcdAccess,
    /// Where the snapshot of the mesh is kept.
    pub state_dir: Option<PathBuf>,
    /// Log filter.
    pub log: String,
    /// Log format.
    pub log_format: LogFormat,
    /// Where traces and metrics go.
    pub otlp_endpoint: Option<String>,
    /// The share of traces begun here that are recorded.
    pub trace_ratio: f64,
    /// How long a record outlives its process.
    pub lease_ttl: Duration,
    /// How long balancers are given to notice that the process is going, before connections are told.
    pub lame_duck: Duration,
    /// How long calls in flight may take to end.
    pub drain_grace: Duration,
    /// Threads that serve calls; 0 means one for each processor.
    pub serving_threads: usize,
}

/// The files and the name by which etcd and a process know each other.
#[derive(Clone, Debug, Default)]
pub struct EtcdAccess {
    /// Who may sign the members' certificates.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown to the members.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate.
    pub key: Option<PathBuf>,
    /// The user.
    pub user: Option<String>,
    /// Where the user's password is.
    pub password_file: Option<PathBuf>,
}

/// Where a service listens and how it is found.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The service's identity; unset takes kind, host and port.
    pub id: Option<WorkerId>,
    /// The gRPC server.
    pub server: ServerOptions,
    /// The address that others dial, when it is not the one that is listened on.
    pub advertise: Option<String>,
    /// Health over HTTP, and `/metrics` on the metrics service.
    pub http: Option<SocketAddr>,
}

/// A router's settings.
#[derive(Clone, Debug)]
pub struct Router {
    /// Where it listens.
    pub listen: Listen,
    /// The zone that it stands in.
    pub zone: String,
    /// Memory for answers that routes keep.
    pub cache_bytes: ByteSize,
    /// Calls that wait for their turn.
    pub queue_limit: usize,
    /// How long they may wait before some are shed.
    pub target_wait: Duration,
}

/// A scheduler's settings.
#[derive(Clone, Debug)]
pub struct Scheduler {
    /// Where it listens.
    pub listen: Listen,
    /// Whether models that workers offer are served without being asked for.
    pub auto: bool,
    /// How long the store's history is kept.
    pub history: Duration,
    /// Jobs.
    pub jobs: Jobs,
}

/// A worker's settings.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Where it listens.
    pub listen: Listen,
    /// The model repository.
    pub models: Option<PathBuf>,
    /// Memory for models.
    pub memory: Option<ByteSize>,
    /// Threads that run models.
    pub threads: Option<u32>,
    /// The failure zone.
    pub zone: String,
    /// `key=value` pairs.
    pub labels: BTreeMap<String, String>,
    /// Slots of each pool that jobs can reserve.
    pub slots: BTreeMap<String, u32>,
    /// Requests that wait for one replica.
    pub queue_limit: usize,
    /// How long the drain may wait for replicas to be moved.
    pub move_grace: Duration,
    /// ONNX Runtime's library.
    pub onnxruntime: Option<PathBuf>,
    /// Memory of one engine process beyond its model's.
    pub engine_memory: ByteSize,
    /// Memory that a worker shares with one engine process.
    pub engine_arena: ByteSize,
}

/// The metrics service's settings.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Where it listens.
    pub listen: Listen,
}

/// All four.
#[derive(Clone, Debug)]
pub struct Dev {
    /// The router.
    pub router: Router,
    /// The scheduler.
    pub scheduler: Scheduler,
    /// The worker.
    pub worker: Worker,
    /// The metrics service.
    pub metrics: Metrics,
    /// Whether to send the demonstration calls once everything is ready.
    pub demo: bool,
}

/// Reads what every process has; `log` is the default filter.
pub fn common(reader: &mut Reader, log: &str) -> Common {
    let mut section = reader.shared();
    let cluster =
        Setting::new("cluster", "default".to_owned(), "name of the cluster; other clusters share nothing with it");
    Common {
        cluster: section.get(cluster.check(ModelName::EXPECTED, |name| name.parse::<ModelName>().is_ok())),
        etcd: section.get(Setting::new(
            "etcd",
            Vec::new(),
            "etcd endpoints as host:port; none uses the embedded store, which only 'dev' and 'demo' can share",
        )),
        etcd_access: read_etcd_access(&mut section),
        state_dir: section.get(Setting::new(
            "state-dir",
            None,
            "folder for the last snapshot of the mesh; with it a router or worker that starts while etcd is away serves on",
        )),
        log: section.get(Setting::new("log", log.to_owned(), "log filter: a level, or levels by module")),
        log_format: match section
            .get(
                Setting::new("log-format", "text".to_owned(), "'text' for people, 'json' for machines")
                    .check("'text' or 'json'", |format: &String| format.parse::<LogFormat>().is_ok()),
            )
            .as_str()
        {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        otlp_endpoint: section.get(Setting::new(
            "otlp-endpoint",
            None,
            "where traces and metrics are sent, such as http://127.0.0.1:8003; 'dev' sends to its own metrics service",
        )),
        trace_ratio: section.get(
            Setting::new(
                "trace-ratio",
                0.01,
                "share of traces begun here that are recorded; a caller's own choice is always followed",
            )
            .within(0.0, 1.0),
        ),
        lease_ttl: section.get(
            Setting::new("lease-ttl", Duration::from_secs(5), "how long a dead process stays registered")
                .within(Duration::from_secs(1), Duration::from_secs(300)),
        ),
        lame_duck: section.get(Setting::new(
            "lame-duck",
            Duration::from_secs(1),
            "how long health says NOT_SERVING before connections are told to go: at least a balancer's check interval",
        )),
        drain_grace: section.get(Setting::new(
            "drain-grace",
            Duration::from_secs(30),
            "how long calls in flight may take to end",
        )),
        serving_threads: section.get(
            Setting::new("serving-threads", 0, "threads that move calls, whatever executes them aside; 0 means one for each processor")
                .within(0, 1_024),
        ),
    }
}

fn read_etcd_access(section: &mut Section<'_>) -> EtcdAccess {
    EtcdAccess {
        ca: section.get(Setting::new("etcd-ca", None, "PEM file of who signs etcd's certificates; endpoints are https then")),
        certificate: section.get(Setting::new("etcd-cert", None, "PEM file of the certificate to show to etcd")),
        key: section.get(Setting::new("etcd-key", None, "PEM file of that certificate's key, for the owner's eyes only")),
        user: section.get(Setting::new("etcd-user", None, "user of an etcd with authentication")),
        password_file: section.get(Setting::new(
            "etcd-password-file",
            None,
            "file with that user's password, for the owner's eyes only; a flag would show it to every user of the machine",
        )),
    }
}

/// Reads a router's settings.
pub fn router(reader: &mut Reader) -> Router {
    read_router(&mut reader.section("router"), None)
}

/// Reads a scheduler's settings.
pub fn scheduler(reader: &mut Reader) -> Scheduler {
    read_scheduler(&mut reader.section("scheduler"), None)
}

/// Reads a worker's settings.
pub fn worker(reader: &mut Reader) -> Worker {
    read_worker(&mut reader.section("worker"), None)
}

/// Reads the metrics service's settings.
pub fn metrics(reader: &mut Reader) -> Metrics {
    read_metrics(&mut reader.section("metrics"), None)
}

/// Reads the settings of all four, for one process.
pub fn dev(reader: &mut Reader) -> Dev {
    let help = "send the demonstration calls once everything is ready, then go on serving";
    let demo = reader.section("dev").get(Setting::new("demo", false, help));
    all(reader, demo, Some(8001))
}

/// Reads the settings of all four, on free ports.
pub fn demo(reader: &mut Reader) -> Dev {
    all(reader, true, None)
}

/// In one process only the router has a port that callers know; the others are found through the store.
fn all(reader: &mut Reader, demo: bool, port: Option<u16>) -> Dev {
    let local = |port: Option<u16>| Some(SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(0))));
    Dev {
        router: read_router(&mut reader.prefixed("router"), local(port)),
        scheduler: read_scheduler(&mut reader.prefixed("scheduler"), local(None)),
        worker: read_worker(&mut reader.prefixed("worker"), local(None)),
        metrics: read_metrics(&mut reader.prefixed("metrics"), local(None)),
        demo,
    }
}

fn read_router(section: &mut Section<'_>, listen: Option<SocketAddr>) -> Router {
    let http = listen.is_none_or(|listen| listen.port() != 0).then_some(8000);
    let cache_bytes = Setting::new(
        "cache-bytes",
        ByteSize::mib(64),
        "memory for answers that routes keep for equal calls; one that takes more than a sixteenth of it is not kept",
    );
    Router {
        listen: read_listen(section, listen, http),
        cache_bytes: section.get(cache_bytes.within(ByteSize::mib(1), ByteSize::bytes(1 << 40))),
        zone: section.get(Setting::new(
            "zone",
            String::new(),
            "zone of this machine; calls stay with workers of the same zone while those have no more to do than others",
        )),
        queue_limit: section.get(
            Setting::new("queue-limit", 4096, "calls that wait for their turn, over all models; beyond it calls are refused")
                .within(1, 1_000_000),
        ),
        target_wait: section.get(
            Setting::new(
                "target-wait",
                Duration::from_millis(25),
                "when all calls to a model wait for longer, those of the lowest priority and of tenants above their share are shed",
            )
            .within(Duration::from_millis(1), Duration::from_secs(60)),
        ),
    }
}

fn read_scheduler(section: &mut Section<'_>, listen: Option<SocketAddr>) -> Scheduler {
    Scheduler {
        listen: read_listen(section, listen, None),
        auto: section.get(Setting::new(
            "auto",
            true,
            "serve every model that a worker offers, with one replica, until told otherwise; false waits to be asked",
        )),
        history: section.get(Setting::new(
            "history",
            Duration::from_secs(300),
            "how long the store's history is kept before the leader compacts it; 0s keeps it for ever",
        )),
        jobs: jobs::read(section, listen.is_some()),
    }
}

fn read_metrics(section: &mut Section<'_>, listen: Option<SocketAddr>) -> Metrics {
    Metrics { listen: read_listen(section, listen, Some(8002)) }
}

/// A pool of slots and how many there are.
fn pool(pair: &str) -> Option<(String, u32)> {
    let (pool, count) = pair.split_once('=')?;
    let is_name =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    let count = count.parse().ok().filter(|count| *count <= 4096)?;
    (!pool.is_empty() && pool.len() <= 63 && is_name(pool)).then(|| (pool.to_owned(), count))
}

fn read_worker(section: &mut Section<'_>, listen: Option<SocketAddr>) -> Worker {
    let labels = Setting::new("labels", Vec::new(), "what the operator says of this machine, as key=value")
        .check("key=value pairs", |pairs: &Vec<String>| pairs.iter().all(|pair| pair.contains('=')));
    let slots =
        Setting::new("slots", vec!["default=16".to_owned()], "slots that jobs can reserve here, as pool=number")
            .check("pool=number pairs, the number up to 4096", |pairs: &Vec<String>| {
                pairs.iter().all(|pair| pool(pair).is_some())
            });
    Worker {
        listen: read_listen(section, listen, None),
        models: section.get(Setting::new(
            "models",
            None,
            "model repository in Triton's layout: name/version/model.onnx",
        )),
        memory: section.get(Setting::new(
            "memory",
            None,
            "memory that models may take; unset takes 80 % of the machine's",
        )),
        threads: section.get(Setting::new("threads", None, "threads that run models; unset takes the processor quota")),
        zone: section.get(Setting::new("zone", String::new(), "failure zone of this machine")),
        labels: section
            .get(labels)
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        slots: section.get(slots).iter().filter_map(|pair| pool(pair)).collect(),
        queue_limit: section.get(
            Setting::new(
                "queue-limit",
                1024,
                "requests that wait for one replica; beyond it an answer in time is unlikely",
            )
            .within(1, 1_000_000),
        ),
        move_grace: section.get(Setting::new(
            "move-grace",
            Duration::from_secs(20),
            "how long the drain waits for replicas to be moved to other workers",
        )),
        onnxruntime: section.get(Setting::new(
            "onnxruntime",
            None,
            "path of libonnxruntime.so (PyPI package onnxruntime has it); unset looks beside weft and where the system's loader does",
        )),
        engine_memory: section.get(
            Setting::new(
                "engine-memory",
                ByteSize::bytes(4 << 30),
                "memory of one engine process beyond its model's; one that takes more is ended, and its model loaded again",
            )
            .within(ByteSize::bytes(16 << 20), ByteSize::bytes(1 << 50)),
        ),
        engine_arena: section.get(
            Setting::new(
                "engine-arena",
                ByteSize::bytes(256 << 20),
                "memory for tensors that are shared with one engine process; calls wait for room in it",
            )
            .within(ByteSize::bytes(1 << 20), ByteSize::bytes(1 << 38)),
        ),
    }
}

fn read_listen(section: &mut Section<'_>, listen: Option<SocketAddr>, http: Option<u16>) -> Listen {
    let defaults = ServerOptions::default();
    let own = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let server = ServerOptions {
        listen: section.get(Setting::new(
            "listen",
            listen.unwrap_or_else(|| own(8001)),
            "address of the gRPC server; port 0 takes a free one",
        )),
        max_connections: section.get(
            Setting::new("max-connections", defaults.max_connections, "open connections; one more is closed at once")
                .within(1, 1_000_000),
        ),
        max_streams: section.get(
            Setting::new("max-streams", defaults.max_streams, "calls at once on one connection").within(1, 100_000),
        ),
        max_message_bytes: message_bytes(section, defaults.max_message_bytes),
        handshake_timeout: section.get(Setting::new(
            "handshake-timeout",
            defaults.handshake_timeout,
            "how long a new connection may take to speak",
        )),
        keepalive_interval: section.get(Setting::new(
            "keepalive-interval",
            defaults.keepalive_interval,
            "silence before a connection is pinged",
        )),
        keepalive_timeout: section.get(Setting::new(
            "keepalive-timeout",
            defaults.keepalive_timeout,
            "how long the answer to a ping may take",
        )),
        max_connection_age: section.get(Setting::new(
            "max-connection-age",
            defaults.max_connection_age,
            "how old a connection becomes before its client is asked to open another; unset leaves connections alone",
        )),
        default_timeout: section.get(Setting::new(
            "default-timeout",
            defaults.default_timeout,
            "deadline of a call that brings none",
        )),
        max_timeout: section.get(Setting::new("max-timeout", defaults.max_timeout, "longest deadline of any call")),
        ..defaults
    };
    Listen {
        id: section.get(Setting::new(
            "id",
            None,
            "identity of this instance, stable over restarts; unset takes kind, host and port",
        )),
        advertise: section.get(Setting::new(
            "advertise",
            None,
            "host:port that others dial; unset takes the listening address",
        )),
        http: section.get(Setting::new("http", http.map(own), "address for /livez, /readyz and, on metrics, /metrics")),
        server,
    }
}

fn message_bytes(section: &mut Section<'_>, default: u32) -> u32 {
    let most = u64::from(u32::MAX);
    let setting = Setting::new(
        "max-message",
        ByteSize::bytes(u64::from(default)),
        "longest message; a longer one is refused by its prefix",
    )
    .within(ByteSize::bytes(1024), ByteSize::bytes(most));
    u32::try_from(section.get(setting).get()).unwrap_or(default)
}
