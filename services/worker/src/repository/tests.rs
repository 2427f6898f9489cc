use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn scan(files: &[(&str, &str)]) -> Repository {
    Repository::scan(Some(folder(files).path()), &BTreeSet::new())
}

/// The engines that the models of these files get, where ONNX Runtime is there and where it is not.
fn engines(files: &[(&str, &str)]) -> [String; 2] {
    let folder = folder(files);
    [BTreeSet::from(["onnxruntime"]), BTreeSet::new()].map(|has| {
        let repository = Repository::scan(Some(folder.path()), &has);
        assert_eq!(repository.problems(), []);
        offer(&repository, "m").engine.clone()
    })
}

fn offer<'a>(repository: &'a Repository, name: &str) -> &'a Offer {
    repository.models().find(|offer| offer.name.as_str() == name).unwrap()
}

fn versions(offer: &Offer) -> Vec<u64> {
    offer.versions.keys().map(|version| version.get()).collect()
}

fn problem(repository: &Repository) -> (&str, &str) {
    let [problem] = repository.problems() else { panic!("{:?}", repository.problems()) };
    (&problem.model, &problem.problem)
}

const PBTXT: &str = r##"
    name: "m"
    backend: "onnxruntime"
    max_batch_size: 16
    input # a "comment [
    [ { name: "X" data_type: TYPE_INT32 dims: [ 2048 ] } ]
    output { name: "Y", data_type: TYPE_FP32, dims: 214 }
    dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 500 }
    instance_group [ { count: 2 kind: KIND_CPU }, { count: 1 } ]
    parameters { key: "colour" value { string_value: "blue [\"#" } }
    parameters { key: "cpus" value { string_value: "1.5" } }
"##;

const TOML: &str = r##"
    name = "m"
    backend = "onnxruntime"
    max_batch_size = 16
    instance_group = [{ count = 2, kind = "KIND_CPU" }, { count = 1 }]
    [[input]]
    name = "X"
    data_type = "TYPE_INT32"
    dims = [2048]
    [[output]]
    name = "Y"
    data_type = "TYPE_FP32"
    dims = [214]
    [dynamic_batching]
    preferred_batch_size = [4, 8]
    max_queue_delay_microseconds = 500
    [parameters.colour]
    string_value = "blue [\"#"
    [parameters.cpus]
    string_value = "1.5"
"##;

#[test]
fn the_built_in_models_are_always_there() {
    let repository = Repository::scan(None, &BTreeSet::new());
    let names: Vec<_> = repository.models().map(|offer| (offer.name.as_str(), offer.engine.as_str())).collect();
    assert_eq!(names, [("digits", "tract"), ("fail", "builtin"), ("identity", "builtin"), ("sleep", "builtin")]);
    assert!(repository.models().all(|offer| versions(offer) == [1]));
    let digits = &offer(&repository, "digits").versions[&Version::new(1).unwrap()];
    assert!(digits.spec.max_batch_size == digits::MAX_BATCH_SIZE && digits.size_bytes > digits::MODEL.len() as u64);
    assert!(repository.problems().is_empty());
}

#[test]
fn both_forms_of_a_configuration_say_the_same() {
    for (file, text) in [("m/config.pbtxt", PBTXT), ("m/config.toml", TOML)] {
        let repository = scan(&[(file, text), ("m/1/model.onnx", "12345"), ("m/12/model.onnx", ""), ("README.md", "")]);
        assert_eq!(repository.problems(), []);
        let offer = offer(&repository, "m");
        assert_eq!((offer.engine.as_str(), versions(offer)), ("tract", vec![1, 12]));
        assert_eq!((offer.config.backend.as_str(), offer.config.max_batch_size), ("tract", 16));
        assert_eq!((offer.config.input[0].name.as_str(), &offer.config.input[0].dims), ("X", &vec![2048]));
        let Some(SchedulingChoice::DynamicBatching(dynamic)) = &offer.config.scheduling_choice else {
            panic!("{file}")
        };
        assert_eq!((dynamic.preferred_batch_size.as_slice(), dynamic.max_queue_delay_microseconds), (&[4, 8][..], 500));
        let entry = &offer.versions[&Version::new(1).unwrap()];
        assert_eq!(entry.size_bytes, Engine::Tract.estimate_bytes(5, 16));
        assert_eq!((entry.spec.name.as_str(), entry.spec.max_batch_size), ("m", 16));
        assert_eq!(entry.spec.parameters["colour"], "blue [\"#");
        assert_eq!(entry.spec.parameters["instances"], "3");
        assert_eq!((entry.cpu_millis, entry.spec.parameters.get("cpus")), (1500, None), "no engine knows it");
        let Source::File(path) = &entry.spec.source else { panic!("{:?}", entry.spec.source) };
        assert!(path.ends_with("m/1/model.onnx"));
    }
}

#[test]
fn a_model_needs_no_configuration() {
    let repository =
        scan(&[("m/3/model.onnx", ""), ("m/03/model.onnx", ""), ("m/old/model.onnx", ""), (".git/x/y", "")]);
    assert_eq!(repository.problems(), []);
    assert_eq!(versions(offer(&repository, "m")), [3]);
    assert_eq!(offer(&repository, "m").config.max_batch_size, 0);
}

#[test]
fn the_engine_follows_the_configuration_the_file_and_what_is_there() {
    let onnx = ("m/1/model.onnx", "");
    let gguf = ("m/1/tiny-q4.gguf", "");
    let config = |text| ("m/config.pbtxt", text);
    type Case<'a> = (&'a [(&'a str, &'a str)], [&'a str; 2]);
    let cases: [Case<'_>; 9] = [
        (&[onnx], ["onnxruntime", "tract"]),
        (&[onnx, config("backend: 'onnx'")], ["onnxruntime", "tract"]),
        (&[onnx, config("platform: 'onnxruntime_onnx'")], ["onnxruntime", "tract"]),
        (&[onnx, config("backend: 'tract'")], ["tract", "tract"]),
        (&[gguf], ["llama", "llama"]),
        (&[gguf, config("backend: 'llama' model_transaction_policy { decoupled: true }")], ["llama", "llama"]),
        (&[gguf, onnx], ["onnxruntime", "tract"]),
        (&[("m.onnx", "")], ["onnxruntime", "tract"]),
        (&[("m.gguf", "")], ["llama", "llama"]),
    ];
    for (files, expected) in cases {
        assert_eq!(engines(files), expected, "{files:?}");
    }
}

#[test]
fn a_language_models_file_may_have_any_name_when_it_is_alone() {
    let file = |files: &[(&str, &str)]| {
        let repository = scan(files);
        let offer = repository.models().find(|offer| offer.name.as_str() == "m")?;
        let Source::File(path) = &offer.versions[&Version::new(1)?].spec.source else { return None };
        Some(path.file_name()?.to_string_lossy().into_owned())
    };
    assert_eq!(file(&[("m/1/a.gguf", "")]).as_deref(), Some("a.gguf"));
    assert_eq!(file(&[("m/1/a.gguf", ""), ("m/1/model.gguf", "")]).as_deref(), Some("model.gguf"));
    assert_eq!(file(&[("m.gguf", ""), ("other.txt", "")]).as_deref(), Some("m.gguf"));
    let several = [("m/1/a.gguf", ""), ("m/1/b.gguf", "")];
    assert!(problem(&scan(&several)).1.contains("default_model_filename must name one"));
    let named = ("m/config.pbtxt", "backend: 'llama' default_model_filename: 'b.gguf'");
    assert_eq!(file(&[several[0], several[1], named]).as_deref(), Some("b.gguf"));
}

#[test]
fn a_plain_file_is_version_1_and_gives_way_to_a_folder() {
    let repository = scan(&[("m.onnx", "12345"), ("n.onnx", ""), ("n/7/model.onnx", ""), ("bad name.onnx", "")]);
    assert_eq!(versions(offer(&repository, "m")), [1]);
    assert_eq!(versions(offer(&repository, "n")), [7]);
    let told: Vec<&str> = repository.problems().iter().map(|problem| problem.problem.as_str()).collect();
    assert!(told.len() == 2 && told[0].contains("the name must be") && told[1].contains("another model"), "{told:?}");
    let inside = folder(&[("keep", "")]);
    let outside = folder(&[("secret.onnx", "x")]);
    symlink(outside.path().join("secret.onnx"), inside.path().join("m.onnx")).unwrap();
    let linked = Repository::scan(Some(inside.path()), &BTreeSet::new());
    assert!(problem(&linked).1.contains("leads out"), "{:?}", linked.problems());
}

#[test]
fn what_is_not_followed_is_noted() {
    let notes = |config: &str| {
        let folder = folder(&[("m/config.pbtxt", config), ("m/1/model.onnx", "")]);
        assert_eq!(Repository::scan(Some(folder.path()), &BTreeSet::new()).problems(), [], "{config}");
        let text = Schema::load().unwrap().read_text(config).unwrap();
        let around = Around { holds: &|_| true, has: &|_| false };
        Settings::new(&"m".parse().unwrap(), text, around).unwrap().notes
    };
    let cases = [
        ("optimization { execution_accelerators { cpu_execution_accelerator [ { name: 'x' } ] } }", "optimization"),
        ("model_warmup [ { name: 'one' } ]", "model_warmup"),
        ("response_cache { enable: true }", "response_cache"),
        ("version_policy { all { } }", "version_policy"),
        ("version_policy { latest { num_versions: 2 } }", "version_policy"),
        ("version_policy { specific { versions: [ 1, 2 ] } }", "version_policy"),
        ("backend: 'tract' parameters { key: 'x' value { string_value: '1' } }", "parameters"),
        ("instance_group { count: 1 rate_limiter { priority: 2 } }", "instance_group"),
        ("max_batch_size: 2 sequence_batching { oldest { max_candidate_sequences: 4 } }", "max_candidate_sequences"),
        ("sequence_batching { direct { minimum_slot_utilization: 0.5 } }", "minimum_slot_utilization"),
        ("output { name: 'y' label_filename: 'labels.txt' }", "label_filename"),
        ("cc_model_filenames { key: '7.5' value: 'model75.onnx' }", "cc_model_filenames"),
        ("metric_tags { key: 'x' value: 'y' }", "metric_tags"),
    ];
    for (config, expected) in cases {
        let notes = notes(config);
        assert!(notes.len() == 1 && notes[0].contains(expected), "{config}: {notes:?}");
    }
    for config in [
        "version_policy { specific { versions: [ 1 ] } }",
        "instance_group { name: 'one' count: 2 kind: KIND_CPU }",
        "max_batch_size: 2 sequence_batching { oldest { preferred_batch_size: 2 } }",
        "parameters { key: 'instances' value { string_value: '2' } }",
    ] {
        assert_eq!(notes(config), [] as [&str; 0], "{config}");
    }
}

const HASHES: [(&str, &str); 2] = [
    ("weights", "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"),
    ("other", "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"),
];

/// What `manifest.sha256` makes of version 1, or what is wrong with the repository.
fn verify(root: &Path) -> Result<String, String> {
    let repository = Repository::scan(Some(root), &BTreeSet::new());
    if let Some(problem) = repository.problems().first() {
        return Err(problem.problem.clone());
    }
    let version = Version::new(1).unwrap();
    let entry = &offer(&repository, "m").versions[&version];
    let verified = entry.manifest.as_ref().expect("there is one").verify(version, entry.spec.source.clone())?;
    // What is exchanged now is not what is loaded.
    fs::rename(root.join("m/1/model.onnx"), root.join("m/1/before")).unwrap();
    fs::write(root.join("m/1/model.onnx"), "other").unwrap();
    let Source::Open(file) = verified.source else { panic!("{:?}", verified.source) };
    let mut text = String::new();
    (&*file).rewind().and_then(|()| (&*file).read_to_string(&mut text)).unwrap();
    assert_eq!(text, HASHES[0].0);
    Ok(verified.digest)
}

#[test]
fn a_manifest_binds_the_configuration_that_it_lists() {
    let [(weights, hash), (_, other_hash)] = HASHES;
    let listed = |name: &str| format!("{hash}  1/model.onnx\n{other_hash}  {name}\n");
    let problem = |config: &[(&str, &str)], name: &str| {
        let (text, model) = (listed(name), [("m/1/model.onnx", weights)]);
        let files: Vec<_> = model.iter().chain(config).copied().chain([("m/manifest.sha256", text.as_str())]).collect();
        verify(folder(&files).path()).err()
    };
    let changed = "config.pbtxt: is not what manifest.sha256 says";
    assert_eq!(problem(&[("m/config.pbtxt", "max_batch_size: 4")], "config.pbtxt").as_deref(), Some(changed));
    let missing = "config.toml: is listed in manifest.sha256 and missing";
    assert_eq!(problem(&[], "config.toml").as_deref(), Some(missing));
    // `other` is no configuration: it was compared, and only then parsed.
    let parsed = problem(&[("m/config.pbtxt", "other")], "config.pbtxt").unwrap();
    assert!(parsed.starts_with("config.pbtxt: ") && parsed != changed, "{parsed}");
    assert_eq!(problem(&[("m/config.pbtxt", "max_batch_size: 4")], "README"), None, "it is not listed");
}

#[test]
fn a_manifest_binds_every_file_of_a_version() {
    let [(weights, hash), (other, other_hash)] = HASHES;
    let manifest = format!("{hash}  1/model.onnx\n{other_hash} *./1/deep/data\n{hash}  2/model.onnx\n");
    let whole = || folder(&[("m/1/model.onnx", weights), ("m/1/deep/data", other), ("m/manifest.sha256", &manifest)]);
    let digest = verify(whole().path()).unwrap();
    assert_eq!((digest.len(), verify(whole().path()).unwrap()), (64, digest));
    type Change = fn(&Path);
    let cases: [(Change, &str); 9] = [
        (|root| fs::write(root.join("m/1/model.onnx"), "weightz").unwrap(), "m/1/model.onnx: is not what"),
        (|root| fs::write(root.join("m/1/more"), "").unwrap(), "1/more: is not listed"),
        (|root| fs::write(root.join("m/1/.hidden"), "").unwrap(), "1/.hidden: is not listed"),
        (|root| fs::remove_file(root.join("m/1/deep/data")).unwrap(), "1/deep/data: is listed"),
        (|root| fs::hard_link(root.join("m/1/model.onnx"), root.join("other")).unwrap(), "hard link"),
        (
            |root| {
                fs::rename(root.join("m/1/deep"), root.join("m/deep")).unwrap();
                symlink(root.join("m/deep"), root.join("m/1/deep")).unwrap();
            },
            "1/deep: not a plain file",
        ),
        (
            |root| {
                fs::rename(root.join("m/1"), root.join("m/x")).unwrap();
                symlink("x", root.join("m/1")).unwrap();
            },
            "1: not a plain folder",
        ),
        (|root| fs::write(root.join("m/manifest.sha256"), "00  1/model.onnx").unwrap(), "line 1: expected"),
        (
            |root| fs::write(root.join("m/manifest.sha256"), format!("{}  ../x", "0".repeat(64))).unwrap(),
            "line 1: expected",
        ),
    ];
    for (change, expected) in cases {
        let folder = whole();
        change(folder.path());
        let problem = verify(folder.path()).unwrap_err();
        assert!(problem.contains(expected.trim_start_matches("m/")), "{problem}, expected {expected}");
        assert!(!problem.contains(folder.path().to_str().unwrap()), "shows a path: {problem}");
    }
}

#[test]
fn the_version_policy_is_kept() {
    let cases = [
        ("", vec![1, 2, 10]),
        ("version_policy: { all {} }", vec![1, 2, 10]),
        ("version_policy: { latest { num_versions: 2 } }", vec![2, 10]),
        ("version_policy: { latest {} }", vec![10]),
        ("version_policy: { specific { versions: [2, 7] } }", vec![2]),
    ];
    for (policy, expected) in cases {
        let models =
            [("m/1/model.onnx", ""), ("m/2/model.onnx", ""), ("m/10/model.onnx", ""), ("m/config.pbtxt", policy)];
        assert_eq!(versions(offer(&scan(&models), "m")), expected, "{policy}");
    }
}

#[test]
fn a_repository_may_rename_and_replace_built_in_models() {
    let nap = "backend: 'builtin' parameters { key: 'model' value { string_value: 'sleep' } }";
    let repository = scan(&[("nap/1/.keep", ""), ("nap/config.pbtxt", nap), ("digits/7/model.onnx", "")]);
    assert_eq!(repository.problems(), []);
    assert_eq!(offer(&repository, "nap").engine, "builtin");
    assert_eq!(versions(offer(&repository, "digits")), [7]);
}

#[test]
fn a_bad_configuration_is_told_and_skipped() {
    let cases = [
        ("m/config.pbtxt", "max_batch_size: many", "config.pbtxt: "),
        ("m/config.pbtxt", "max_batch_sise: 3", "max_batch_sise"),
        ("m/config.toml", "max_batch_sise = 3", "max_batch_sise"),
        ("m/config.toml", "max_batch_size =", "config.toml: "),
        ("m/config.pbtxt", "name: 'other'", "name: "),
        ("m/config.pbtxt", "backend: 'python'", "backend: "),
        ("m/config.pbtxt", "platform: 'tensorrt_plan'", "backend: "),
        ("m/config.pbtxt", "backend: 'builtin'", "parameters[\"model\"]: "),
        ("m/config.pbtxt", "max_batch_size: -1", "max_batch_size: "),
        ("m/config.pbtxt", "max_batch_size: 65537", "max_batch_size: "),
        ("m/config.pbtxt", "dynamic_batching {}", "dynamic_batching: "),
        ("m/config.pbtxt", "max_batch_size: 4 dynamic_batching { preferred_batch_size: 5 }", "preferred_batch_size: "),
        ("m/config.pbtxt", "sequence_batching { iterative_sequence: true }", "sequence_batching.iterative_sequence: "),
        (
            "m/config.pbtxt",
            "sequence_batching { state { input_name: 'a' output_name: 'b' } state { input_name: 'a' output_name: 'c' } }",
            "sequence_batching.state: ",
        ),
        (
            "m/config.pbtxt",
            "input { name: 'a' } sequence_batching { state { input_name: 'a' output_name: 'b' } }",
            "sequence_batching.state: ",
        ),
        (
            "m/config.pbtxt",
            "sequence_batching { state { input_name: 'a' output_name: 'b' initial_state { data_file: '../x' } } }",
            "sequence_batching.state.initial_state.data_file: ",
        ),
        (
            "m/config.pbtxt",
            "sequence_batching { control_input { name: 'a' control { kind: CONTROL_SEQUENCE_START } } }",
            "sequence_batching.control_input.control: ",
        ),
        (
            "m/config.pbtxt",
            "sequence_batching { control_input { name: 'a' control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 } } }",
            "sequence_batching.control_input.control: ",
        ),
        ("m/config.pbtxt", "sequence_batching { oldest { preferred_batch_size: 2 } }", "preferred_batch_size: "),
        (
            "m/config.pbtxt",
            "sequence_batching { direct { max_queue_delay_microseconds: 60000001 } }",
            "max_queue_delay",
        ),
        ("m/config.pbtxt", "ensemble_scheduling {}", "ensemble_scheduling: "),
        ("m/config.pbtxt", "model_transaction_policy { decoupled: true }", "decoupled: "),
        ("m/config.pbtxt", "max_batch_size: 4 dynamic_batching { priority_levels: 2 }", "default_priority_level: "),
        (
            "m/config.pbtxt",
            "max_batch_size: 4 dynamic_batching { default_queue_policy { timeout_action: DELAY } }",
            "timeout_action: ",
        ),
        (
            "m/config.pbtxt",
            "max_batch_size: 4 dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
            "preserve_ordering: ",
        ),
        ("m/config.pbtxt", "instance_group { kind: KIND_GPU }", "instance_group.kind: "),
        ("m/config.pbtxt", "instance_group { count: 1025 }", "instance_group.count: "),
        ("m/config.pbtxt", "default_model_filename: '../../secret'", "default_model_filename: "),
        ("m/config.pbtxt", "default_model_filename: '/secret'", "default_model_filename: "),
        ("m/config.pbtxt", "runtime: 'mine.so'", "runtime: "),
        ("m/config.pbtxt", "batch_input { kind: BATCH_ELEMENT_COUNT target_name: 'n' }", "batch_input: "),
        ("m/config.pbtxt", "batch_output { target_name: 'n' }", "batch_output: "),
        ("m/config.pbtxt", "input { name: 'a' allow_ragged_batch: true }", "input.allow_ragged_batch: "),
        ("m/config.pbtxt", "input { name: 'a' is_shape_tensor: true }", "input.is_shape_tensor: "),
        ("m/config.pbtxt", "output { name: 'a' is_shape_tensor: true }", "output.is_shape_tensor: "),
        ("m/config.pbtxt", "input { name: 'a' is_non_linear_format_io: true }", "input.is_non_linear_format_io: "),
        ("m/config.pbtxt", "output { name: 'a' is_non_linear_format_io: true }", "output.is_non_linear_format_io: "),
        ("m/config.pbtxt", "instance_group { passive: true }", "instance_group.passive: "),
        (
            "m/config.pbtxt",
            "model_operations { op_library_filename: 'x.so' }",
            "model_operations.op_library_filename: ",
        ),
        ("m/config.pbtxt", "parameters { key: 'cpus' value { string_value: '0' } }", "parameters[\"cpus\"]: "),
        ("m/config.pbtxt", "parameters { key: 'cpus' value { string_value: '2k' } }", "parameters[\"cpus\"]: "),
        ("m/config.pbtxt", "model_repository_agents { agents { name: 'decrypt' } }", "model_repository_agents: "),
        ("m/config.pbtxt", "input { name: 'a' dims: [ 4 ] reshape { shape: [ 2, 3 ] } }", "input.reshape: "),
        ("m/config.pbtxt", "output { name: 'a' dims: [ -1, 2 ] reshape { shape: [ 2, -1 ] } }", "output.reshape: "),
        ("m/config.pbtxt", "output { name: 'a' dims: [ 0 ] reshape { shape: [ 0 ] } }", "output.reshape: "),
        (
            "m/config.pbtxt",
            "backend: 'llama' parameters { key: 'slot' value { string_value: '4' } }",
            "parameters[\"slot\"]: a language model has context, slots",
        ),
    ];
    for (file, text, expected) in cases {
        let repository = scan(&[(file, text), ("m/1/model.onnx", ""), ("good/1/model.onnx", "")]);
        let (model, found) = problem(&repository);
        assert!(model == "m" && found.contains(expected), "{text}: {found}");
        assert!(repository.models().all(|offer| offer.name.as_str() != "m"), "{text} is offered");
        offer(&repository, "good");
    }
    let both = scan(&[("m/config.pbtxt", ""), ("m/config.toml", ""), ("m/1/model.onnx", "")]);
    assert!(problem(&both).1.contains("keep one"));
    let many = scan(&[("m/config.pbtxt", "name: 'n' backend: 'x' max_batch_size: -1"), ("m/1/model.onnx", "")]);
    assert_eq!(many.problems().len(), 3, "{:?}", many.problems());
}

#[test]
fn what_cannot_be_read_is_told_and_skipped() {
    let long = "#".repeat((1 << 20) + 1);
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[("bad name/1/model.onnx", "")], "the name must be"),
        (&[("m/model.onnx", "")], "no version"),
        (&[("m/1/other.onnx", "")], "version 1: model.onnx: cannot be read"),
        (&[("m/1/model.onnx/x", "")], "version 1: model.onnx: not a plain file"),
        (&[("m/config.pbtxt", &long), ("m/1/model.onnx", "")], "config.pbtxt: longer than"),
    ];
    for (files, expected) in cases {
        let repository = scan(files);
        assert!(problem(&repository).1.contains(expected), "{files:?}: {:?}", repository.problems());
        assert_eq!(repository.models().count(), 4);
    }
    let partly = scan(&[("m/1/model.onnx", ""), ("m/2/other.onnx", "")]);
    assert_eq!(versions(offer(&partly, "m")), [1]);
    assert_eq!(problem(&partly).0, "m");
    let missing = Repository::scan(Some(Path::new("/no/such/folder")), &BTreeSet::new());
    let (model, found) = problem(&missing);
    assert!(model.is_empty() && !found.contains("such"), "{found}");
}

#[test]
fn links_within_are_followed_and_links_out_are_refused() {
    let outside = folder(&[("secret.onnx", "x"), ("config.pbtxt", "max_batch_size: 3"), ("m/1/model.onnx", "x")]);
    let inside =
        folder(&[("blobs/1/model.onnx", "x"), ("file/1/keep", ""), ("config/1/model.onnx", "x"), ("version/keep", "")]);
    let (out, root) = (outside.path(), inside.path());
    symlink("blobs", root.join("alias")).unwrap();
    symlink(out.join("m"), root.join("model")).unwrap();
    symlink(out.join("m/1"), root.join("version/1")).unwrap();
    symlink(out.join("secret.onnx"), root.join("file/1/model.onnx")).unwrap();
    symlink(out.join("config.pbtxt"), root.join("config/config.pbtxt")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    let repository = Repository::scan(Some(root), &BTreeSet::new());
    let offered: Vec<_> = repository.models().map(|offer| offer.name.as_str()).collect();
    assert_eq!(offered, ["alias", "blobs", "digits", "fail", "identity", "sleep"]);
    for problem in repository.problems() {
        let expected = if problem.model == "dangling" { "cannot be read" } else { "leads out" };
        assert!(problem.problem.contains(expected), "{problem:?}");
        assert!(!problem.problem.contains(out.to_str().unwrap()), "shows a path: {problem:?}");
    }
    let refused: Vec<_> = repository.problems().iter().map(|problem| problem.model.as_str()).collect();
    assert_eq!(refused, ["config", "dangling", "file", "model", "version"]);
}
