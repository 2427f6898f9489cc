//! The reader as a service uses it: one pass over the options, then one verdict.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_config::{ByteSize, Outcome, Reader, Secret, Section, Setting};

#[derive(Debug, PartialEq)]
struct Options {
    listen: SocketAddr,
    max_batch: u32,
    demo: bool,
    labels: Vec<String>,
    grace: Duration,
    limit: ByteSize,
    models: Option<PathBuf>,
    token: Option<Secret>,
}

impl Options {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            listen: section.get(Setting::new(
                "listen",
                SocketAddr::from(([127, 0, 0, 1], 8001)),
                "where gRPC is served",
            )),
            max_batch: section.get(Setting::new("max-batch", 8, "largest batch").within(1, 64)),
            demo: section.get(Setting::new("demo", false, "send the demonstration")),
            labels: section.get(Setting::new("labels", vec![], "what this worker is good for")),
            grace: section.get(Setting::new("grace", Duration::from_secs(30), "time to finish calls")),
            limit: section.get(Setting::new("limit", ByteSize::mib(64), "largest message")),
            models: section.get(Setting::new("models", None, "folder of models")),
            token: section.get(Setting::new("token", None, "password of the store")),
        }
    }
}

fn process(args: &[&str], environment: &[(&str, &str)]) -> Reader {
    let environment: Vec<(OsString, OsString)> =
        environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Reader::new("weft worker", "runs models", args.iter().map(OsString::from), environment)
}

/// What `weft worker` makes of these sources: its options, and its verdict as text.
fn worker(args: &[&str], environment: &[(&str, &str)]) -> (Options, String) {
    let mut reader = process(args, environment).beside(&["router"]);
    let options = Options::read(&mut reader.section("worker"));
    (options, verdict(reader))
}

fn verdict(reader: Reader) -> String {
    match reader.finish() {
        Ok(Outcome::Run) => "run".to_owned(),
        Ok(Outcome::Print(text)) => text,
        Err(mistakes) => mistakes.to_string(),
    }
}

fn file(content: &str) -> (tempfile::TempDir, String) {
    #[expect(clippy::unwrap_used, reason = "the test cannot go on without its file")]
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weft.toml");
    #[expect(clippy::unwrap_used, reason = "the test cannot go on without its file")]
    std::fs::write(&path, content).unwrap();
    (folder, path.display().to_string())
}

#[test]
fn without_any_source_the_defaults_hold() {
    let (options, verdict) = worker(&[], &[]);
    assert_eq!(verdict, "run");
    assert_eq!((options.listen.port(), options.max_batch, options.demo), (8001, 8, false));
    assert_eq!((options.grace, options.limit, options.models), (Duration::from_secs(30), ByteSize::mib(64), None));
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let (_folder, path) =
        file("max-batch = 2\n[worker]\nmax-batch = 3\nlabels = [\"a\", \"b\"]\n[router]\nanything = 1\n");
    let flag = format!("--config={path}");
    let both = [("WEFT_MAX_BATCH", "4"), ("WEFT_WORKER_MAX_BATCH", "5")];
    assert_eq!(worker(&[&flag, "--max-batch", "6"], &both).0.max_batch, 6);
    assert_eq!(worker(&[&flag], &both).0.max_batch, 5, "the section's own variable is the more specific one");
    assert_eq!(worker(&[&flag], &both[..1]).0.max_batch, 4);
    let (options, verdict) = worker(&[], &[("WEFT_CONFIG", &path), ("WEFT_ROUTER_LISTEN", "not ours")]);
    assert_eq!((options.max_batch, options.labels.len(), verdict.as_str()), (3, 2, "run"));
    let (_folder, path) = file("max-batch = 2\n");
    assert_eq!(worker(&["--config", &path], &[]).0.max_batch, 2);
}

#[test]
fn flags_take_their_value_after_a_space_or_an_equals_sign() {
    let (options, verdict) =
        worker(&["--demo", "--grace=1m30s", "--labels", "gpu", "--labels=big,fast", "--models="], &[]);
    assert_eq!(verdict, "run");
    assert!(options.demo);
    assert_eq!(options.grace, Duration::from_secs(90));
    assert_eq!(options.labels, ["gpu", "big", "fast"]);
    assert!(!worker(&["--demo=false"], &[]).0.demo);
}

#[test]
fn every_mistake_is_reported_and_says_where_it_came_from() {
    let (_folder, path) = file("lissten = \"x\"\n[worker]\nlimit = \"big\"\n[ruoter]\nlisten = 1\n");
    let args = ["--config", &path, "--max-batch", "65", "--listen", "--lables", "x", "stray"];
    let (options, verdict) = worker(&args, &[("WEFT_GRACE", "30"), ("WEFT_GRASE", "30s"), ("WEFT_ROUTER_X", "")]);
    assert_eq!(options, worker(&[], &[]).0, "defaults stand in for what is mistaken");
    let expected = [
        "command line: \"stray\" is not expected",
        "flag --listen: needs a value: expected an address",
        "flag --max-batch: \"65\" is not usable: expected a whole number from 1 to 64",
        "environment WEFT_GRACE: \"30\" is not usable: expected a time with its unit",
        "weft.toml: worker.limit: \"big\" is not usable: expected a size",
        "flag --lables: no such setting: did you mean --labels?",
        "environment WEFT_GRASE: no such setting: did you mean WEFT_GRACE?",
        "weft.toml: lissten: no such setting: did you mean listen?",
        "weft.toml: ruoter.listen: no such setting",
    ];
    for part in expected {
        assert!(verdict.contains(part), "{part:?} is missing in:\n{verdict}");
    }
    assert_eq!(verdict.lines().count(), expected.len() + 1, "{verdict}");
}

#[test]
fn one_value_is_not_given_twice() {
    let (_, verdict) = worker(&["--max-batch", "2", "--max-batch", "3"], &[]);
    assert!(verdict.contains("flag --max-batch: is given 2 times"), "{verdict}");
}

#[test]
fn a_file_that_cannot_be_used_is_a_mistake() {
    let (_folder, path) = file("\n\nlisten = [");
    let (_, verdict) = worker(&["--config", &path], &[]);
    assert!(verdict.contains("weft.toml line 3:"), "{verdict}");
    let (_, verdict) = worker(&["--config", "/nonexistent/weft.toml"], &[]);
    assert!(verdict.contains("cannot be read"), "{verdict}");
    assert!(worker(&["--config"], &[]).1.contains("flag --config: needs a value"));
}

#[test]
fn several_sections_share_a_command_line_under_their_names() {
    let read = |args: &[&str], environment: &[(&str, &str)]| {
        let mut reader = process(args, environment);
        let cluster = reader.shared().get(Setting::new("cluster", "dev".to_owned(), "whose state this is"));
        let router = Options::read(&mut reader.prefixed("router"));
        let worker = Options::read(&mut reader.prefixed("worker"));
        (cluster, router.max_batch, worker.max_batch, verdict(reader))
    };
    let args = ["--cluster", "lab", "--worker-max-batch", "2"];
    assert_eq!(read(&args, &[("WEFT_ROUTER_MAX_BATCH", "3")]), ("lab".to_owned(), 3, 2, "run".to_owned()));
    let (.., verdict) = read(&["--max-batch", "2"], &[("WEFT_MAX_BATCH", "2")]);
    assert!(verdict.contains("flag --max-batch: no such setting: did you mean --router-max-batch?"), "{verdict}");
    assert!(
        verdict.contains("environment WEFT_MAX_BATCH: no such setting: did you mean WEFT_ROUTER_MAX_BATCH?"),
        "{verdict}"
    );
}

#[test]
fn a_name_that_is_declared_twice_is_a_mistake() {
    let mut reader = process(&[], &[]);
    let first = reader.shared().get(Setting::new("cluster", 1_u32, ""));
    let second = reader.section("worker").get(Setting::new("cluster", 2_u32, ""));
    assert_eq!((first, second), (1, 2));
    assert!(verdict(reader).contains("flag --cluster: two settings have this name"));
}

#[test]
fn the_printed_configuration_names_sources_masks_secrets_and_reads_back() {
    let args = ["--print-config", "--max-batch", "6", "--labels", "a\"b,c"];
    let (options, printed) = worker(&args, &[("WEFT_TOKEN", "hunter2"), ("WEFT_GRACE", "250ms")]);
    assert!(printed.contains("[worker]\n"), "{printed}");
    assert!(printed.contains("max-batch = 6  # flag --max-batch\n"), "{printed}");
    assert!(printed.contains("grace = \"250ms\"  # environment WEFT_GRACE\n"), "{printed}");
    assert!(printed.contains("listen = \"127.0.0.1:8001\"  # default\n"), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
    let (_folder, path) = file(&printed);
    let (again, verdict) = worker(&["--config", &path], &[("WEFT_TOKEN", "hunter2")]);
    assert_eq!((again, verdict.as_str()), (options, "run"));
}

#[test]
fn a_mistaken_secret_is_not_shown() {
    let mut reader = process(&["--token", "hunter2"], &[]);
    let token = Setting::new("token", None::<Secret>, "")
        .check("at least 16 letters", |token| token.as_ref().is_none_or(|token| token.expose().len() >= 16));
    assert_eq!(reader.section("worker").get(token), None);
    let verdict = verdict(reader);
    assert!(verdict.contains("flag --token") && verdict.contains("at least 16 letters"), "{verdict}");
    assert!(!verdict.contains("hunter2"), "{verdict}");
}

#[test]
fn help_lists_every_setting_with_its_default_even_next_to_mistakes() {
    let (_, help) = worker(&["-h", "--nonsense"], &[]);
    for part in [
        "--max-batch",
        "largest batch",
        "a whole number from 1 to 64",
        "default 8",
        "WEFT_WORKER_MAX_BATCH or WEFT_MAX_BATCH",
    ] {
        assert!(help.contains(part), "{part:?} is missing in:\n{help}");
    }
}

#[test]
#[cfg(unix)]
fn arguments_and_variables_that_are_not_text_are_mistakes() {
    use std::os::unix::ffi::OsStringExt as _;
    let broken = || OsString::from_vec(vec![b'-', b'-', 0xff]);
    let reader = Reader::new("weft", "", [broken()], [("WEFT_X".into(), broken()), ("OTHER".into(), broken())]);
    assert_eq!(verdict(reader).lines().count(), 3);
}
