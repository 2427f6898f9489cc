//! What the code looks like is a promise, too: which crate may know which, how long files and functions get, where the
//! environment is read. Each check reads the tree as it is and reports everything it finds, with what to do about it.

#[path = "architecture/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Which crate of ours may depend on which, lowest layer first. Whatever is not listed is not allowed.
const LAYERS: [(&str, &[&str]); 13] = [
    ("types", &[]),
    ("policy", &["types"]),
    ("saga", &["types"]),
    ("proto", &["types"]),
    ("config", &["types"]),
    ("telemetry", &["types"]),
    ("runtime", &["types", "proto", "telemetry"]),
    ("store", &["types", "telemetry"]),
    ("engine", &["types"]),
    // Its processes are watched by tasks, and tasks are the runtime's; how sequences step is a policy.
    ("engine-native", &["types", "engine", "policy", "runtime"]),
    // Each of its shards is a task, and tasks are the runtime's.
    ("journal", &["types", "saga", "proto", "runtime", "store", "telemetry"]),
    // Its connections are tasks, and tasks are the runtime's.
    ("client", &["types", "policy", "proto", "runtime", "store", "telemetry"]),
    ("participant", &["types", "proto", "store"]),
];

/// The deployables: they may use every library, and never each other.
const SERVICES: [&str; 4] = ["router", "scheduler", "worker", "metrics"];

/// Libraries with one production user that are ports: their other users are their implementations and fakes.
const PORTS: [&str; 4] = ["store", "engine", "engine-native", "journal"];

const TARGETS: [&str; 12] =
    ["help", "run", "test", "check", "lint", "bench", "bench-state", "bench-worker", "fuzz", "doc", "proto", "models"];

/// Names that say nothing, so that anything ends up there.
const VAGUE: [&str; 9] = ["mod", "util", "utils", "common", "helper", "helpers", "manager", "core", "misc"];

/// Where `unsafe` may stand: the crate that wraps C and C++, and the allocators that count for benchmarks and a test, which
/// nothing ships.
const UNSAFE: [&str; 3] =
    ["shared/engine-native/", "tests/src/allocations.rs", "shared/engine/tests/hostile/counting.rs"];

/// The only source files outside `shared/config/src` that read the environment, each with an `#[expect]` that says why.
const ENVIRONMENT_READERS: [&str; 1] = ["shared/proto/tests/generated.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Fails with every problem at once.
fn verdict(problems: &[String]) -> Result<()> {
    ensure!(problems.is_empty(), "{} problem(s):\n  {}", problems.len(), problems.join("\n  "));
    Ok(())
}

struct Package {
    name: String,
    folder: PathBuf,
    manifest: String,
    /// Crates of ours that it needs to build, and those that only its tests need.
    uses: BTreeSet<String>,
    tests_use: BTreeSet<String>,
}

/// The name without the prefix that all crates share; the binary's own is `weft`.
fn short(name: &str) -> &str {
    name.strip_prefix("weft-").unwrap_or(name)
}

fn packages() -> Result<Vec<Package>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    metadata["packages"].as_array().context("cargo metadata names no packages")?.iter().map(package).collect()
}

fn package(value: &serde_json::Value) -> Result<Package> {
    let manifest_path = Path::new(value["manifest_path"].as_str().context("a package has a manifest")?);
    let dependencies = value["dependencies"].as_array().context("a package lists its dependencies")?;
    let ours = |of_tests: bool| {
        let ours = dependencies.iter().filter(|dependency| !dependency["path"].is_null());
        let wanted = ours.filter(|dependency| (dependency["kind"] == "dev") == of_tests);
        wanted.filter_map(|dependency| dependency["name"].as_str()).map(|name| short(name).to_owned()).collect()
    };
    Ok(Package {
        name: short(value["name"].as_str().context("a package has a name")?).to_owned(),
        folder: manifest_path.parent().context("a manifest lies in a folder")?.to_path_buf(),
        manifest: fs::read_to_string(manifest_path)?,
        uses: ours(false),
        tests_use: ours(true),
    })
}

/// Files below `folder` with this ending, without generated code and build output; paths are relative to the root.
fn files(folder: &str, ending: &str) -> Result<BTreeMap<String, String>> {
    let (root, mut found) = (root(), BTreeMap::new());
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("{} is not readable", folder.display()))? {
            let path = entry?.path();
            let name = path.strip_prefix(&root)?.to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                let skipped = name.ends_with("/target") || name == "shared/proto/src/gen";
                folders.extend((!skipped).then_some(path));
            } else if path.extension().is_some_and(|found| found == ending) {
                found.insert(name, fs::read_to_string(&path)?);
            }
        }
    }
    Ok(found)
}

fn rust_files() -> Result<BTreeMap<String, String>> {
    let mut all = files("shared", "rs")?;
    all.append(&mut files("services", "rs")?);
    all.append(&mut files("tests", "rs")?);
    Ok(all)
}

/// What ships: not the tests, and of each file only what stands before its test module.
fn production_files() -> Result<BTreeMap<String, String>> {
    let ships = |name: &String| name.contains("/src/") && !name.ends_with("/tests.rs") && !name.contains("/tests/");
    let all = rust_files()?.into_iter().filter(|(name, _)| ships(name));
    Ok(all.map(|(name, text)| (name, source::production(&text).to_owned())).collect())
}

/// The smallest value that at least `percent` of `values` do not exceed.
fn percentile(values: &mut [usize], percent: usize) -> usize {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or(0)
}

fn allowed_uses(name: &str) -> Option<BTreeSet<&'static str>> {
    let libraries = || LAYERS.iter().map(|(name, _)| *name);
    match name {
        "tests" => Some(libraries().chain(SERVICES).chain(["weft"]).collect()),
        "weft" => Some(libraries().chain(SERVICES).collect()),
        service if SERVICES.contains(&service) => Some(libraries().collect()),
        library => LAYERS.iter().find(|(name, _)| *name == library).map(|(_, uses)| uses.iter().copied().collect()),
    }
}

#[test]
fn crates_depend_only_downwards() -> Result<()> {
    let mut problems = Vec::new();
    for package in packages()? {
        let Some(allowed) = allowed_uses(&package.name) else {
            problems.push(format!("{}: a crate that is not in the layer table of this test: give it its layer, and say so in ARCHITECTURE.md", package.name));
            continue;
        };
        let wrong = package.uses.iter().filter(|used| !allowed.contains(used.as_str()));
        problems.extend(wrong.map(|used| {
            format!("{} must not depend on {used}: move the code down, or put a trait in the lower crate", package.name)
        }));
        // Tests may reach for any library that they need as a fake, but a library's tests never start a service.
        let of_tests =
            |used: &&String| !allowed.contains(used.as_str()) && !LAYERS.iter().any(|(name, _)| name == *used);
        let wrong = package.tests_use.iter().filter(of_tests);
        problems.extend(wrong.map(|used| {
            format!("the tests of {} must not depend on {used}: such a test belongs in tests/", package.name)
        }));
    }
    verdict(&problems)
}

#[test]
fn a_library_has_two_users_or_is_a_port() -> Result<()> {
    let packages = packages()?;
    let users = |library: &str| packages.iter().filter(|package| package.uses.contains(library)).count();
    let lonely = LAYERS.iter().map(|(name, _)| *name).filter(|name| users(name) < 2 && !PORTS.contains(name));
    verdict(
        &lonely
            .map(|name| format!("{name} has {} production user(s): move it into the one that needs it", users(name)))
            .collect::<Vec<_>>(),
    )
}

#[test]
fn crates_share_lints_and_versions() -> Result<()> {
    let mut problems = Vec::new();
    for package in packages()? {
        if !package.manifest.contains("[lints]\nworkspace = true\n") {
            problems
                .push(format!("{}: add `[lints]` with `workspace = true` to its Cargo.toml", package.folder.display()));
        }
        let mut in_dependencies = false;
        for line in package.manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
            } else if in_dependencies
                && !line.is_empty()
                && !line.starts_with('#')
                && !line.contains("workspace = true")
            {
                problems
                    .push(format!("{}: `{line}` must take its version and features from the workspace", package.name));
            }
        }
    }
    verdict(&problems)
}

#[test]
fn nothing_is_unsafe_and_only_config_reads_the_environment() -> Result<()> {
    let mut problems = Vec::new();
    for (name, text) in rust_files()? {
        let code = source::code(&text);
        if source::words(&code, "unsafe").next().is_some() && !UNSAFE.iter().any(|place| name.starts_with(place)) {
            problems.push(format!("{name}: unsafe code belongs in shared/engine-native"));
        }
        let reads = ["env::var", "env::vars", "env::var_os", "env::vars_os"]
            .iter()
            .any(|read| source::words(&code, read).next().is_some());
        let may_read = name.starts_with("shared/config/src/") || ENVIRONMENT_READERS.contains(&name.as_str());
        if reads && !may_read {
            problems.push(format!("{name}: make it a setting that weft_config reads"));
        }
    }
    verdict(&problems)
}

/// What stands between a call and the choice of its replica: the table is immutable, loads are atomic numbers.
#[test]
fn no_lock_is_taken_to_choose_a_replica() -> Result<()> {
    let all = production_files()?;
    let mut problems = Vec::new();
    for module in ["choose", "table", "route", "rules", "endpoint"] {
        let name = format!("services/router/src/{module}.rs");
        let text = all.get(&name).with_context(|| format!("{name} is missing: say here where its work is done now"))?;
        let code = source::code(text);
        for lock in ["Mutex", "RwLock", "Semaphore", "Condvar", "watch", "lock"] {
            if source::words(&code, lock).next().is_some() {
                problems.push(format!(
                    "{name}: {lock} would make calls wait for each other: use what a reader need not hold"
                ));
            }
        }
    }
    verdict(&problems)
}

#[test]
fn files_stay_short() -> Result<()> {
    let mut problems = Vec::new();
    let mut sizes = Vec::new();
    for (name, text) in production_files()? {
        let lines = text.trim_end().lines().count();
        let bound = if name.ends_with("/main.rs") { 60 } else { 500 };
        if lines > bound {
            problems.push(format!("{name}: {lines} production lines, at most {bound}: split it by what its parts do"));
        }
        sizes.push(lines);
    }
    for (percent, bound) in [(50, 150), (95, 400)] {
        let found = percentile(&mut sizes, percent);
        if found > bound {
            problems.push(format!(
                "{percent} % of the files may have {bound} production lines, and have {found}: split the longest"
            ));
        }
    }
    for (name, text) in files("proto/weft", "proto")? {
        let lines = text.lines().count();
        if lines > 250 {
            problems.push(format!("{name}: {lines} lines, at most 250: split it by service"));
        }
    }
    verdict(&problems)
}

#[test]
fn functions_and_traits_stay_small() -> Result<()> {
    let mut problems = Vec::new();
    let mut sizes = Vec::new();
    for (name, text) in production_files()? {
        let code = source::code(&text);
        for function in source::items(&code, "fn") {
            if function.lines > 80 {
                problems.push(format!(
                    "{name}: fn {} has {} lines, at most 80: name its steps",
                    function.name, function.lines
                ));
            }
            sizes.push(function.lines);
        }
        for port in source::items(&code, "trait") {
            let methods = source::words(&port.body, "fn").count();
            if methods > 6 {
                problems.push(format!("{name}: trait {} has {methods} methods, at most 6: split it", port.name));
            }
        }
    }
    let found = percentile(&mut sizes, 90);
    if found > 25 {
        problems
            .push(format!("90 % of the functions may have 25 lines, and have {found}: name the steps of the longest"));
    }
    verdict(&problems)
}

#[test]
fn names_say_what_is_inside() -> Result<()> {
    let vague = |name: &String| name.trim_end_matches(".rs").split('/').any(|part| VAGUE.contains(&part));
    let named = rust_files()?.into_keys().filter(vague);
    verdict(
        &named
            .map(|name| format!("{name}: name the file after what it does; modules are foo.rs with foo/"))
            .collect::<Vec<_>>(),
    )
}

#[test]
fn the_documents_and_the_makefile_are_complete() -> Result<()> {
    let mut problems = Vec::new();
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).context("ARCHITECTURE.md is missing")?;
    for package in packages()? {
        let folder = package.folder.strip_prefix(root())?.to_string_lossy().into_owned();
        if !architecture.contains(&folder) && !architecture.contains(&format!("weft-{}", package.name)) {
            problems.push(format!("ARCHITECTURE.md does not name {folder}: add it to the code map"));
        }
    }
    let makefile = fs::read_to_string(root().join("Makefile")).context("Makefile is missing")?;
    for target in TARGETS {
        if !makefile.lines().any(|line| line.starts_with(&format!("{target}:")) && line.contains("## ")) {
            problems.push(format!("Makefile: target {target} with its `## ` text is missing"));
        }
    }
    verdict(&problems)
}
