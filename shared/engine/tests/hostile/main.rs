//! Model files that mean harm, each of which is refused for the rule that it breaks, in bounded memory; and files that mean well.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it skips")]

#[path = "corpus.rs"]
mod corpus;
mod counting;

use std::collections::BTreeSet;
use std::io::{Cursor, Read, Seek, SeekFrom};

use weft_engine::format::{Refusal, Rule, gguf, onnx, open_model_file};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// What checking a file may take, besides the file: a buffer, and the parts that are kept, which its length bounds.
fn most_memory(file_bytes: usize) -> usize {
    (256 << 10) + 24 * file_bytes
}

fn check(name: &str, bytes: impl Read + Seek) -> Result<(), Refusal> {
    if name == "model.gguf" { gguf::check(bytes).map(drop) } else { onnx::check(bytes).map(drop) }
}

/// The memory is that of this thread, on which all checks run.
#[test]
fn every_hostile_file_is_refused_for_its_rule_in_bounded_memory() {
    let all = corpus::all();
    let mut names = BTreeSet::new();
    let mut problems = Vec::new();
    for file in &all {
        assert!(names.insert(file.name.clone()), "{} twice", file.name);
        let (result, peak) = counting::peak_of(|| check(file.file, Cursor::new(&file.bytes)));
        match result {
            Err(refusal) if refusal.rule == file.rule => {
                let text = refusal.to_string();
                let safe = text.len() < 300 && !text.chars().any(char::is_control);
                if !safe {
                    problems.push(format!("{}: {text:?} is not fit to be shown", file.name));
                }
            }
            other => problems.push(format!("{}: expected {:?}, got {other:?}", file.name, file.rule)),
        }
        if peak > most_memory(file.bytes.len()) {
            problems.push(format!("{}: {peak} bytes for a file of {}", file.name, file.bytes.len()));
        }
    }
    assert!(problems.is_empty(), "{} of {}:\n{}", problems.len(), all.len(), problems.join("\n"));
    let of = |file: &str| all.iter().filter(|hostile| hostile.file == file).count();
    println!("{} GGUF files, {} ONNX files", of("model.gguf"), of("model.onnx"));
    assert!(of("model.gguf") >= 80 && of("model.onnx") >= 80);
    enormous_metadata_is_not_held();
}

/// A file of endless arrays: each within its limit, together beyond it.
fn enormous_metadata_is_not_held() {
    let good = corpus::gguf::Gguf::good().bytes();
    let mut head = good[..16].to_vec();
    head.extend(4000u64.to_le_bytes());
    let (result, peak) = counting::peak_of(|| gguf::check(Repeating { head, at: 0, entry: array_entry() }));
    assert_eq!(result.expect_err("it is refused").rule, Rule::MetadataSize);
    assert!(peak < 1 << 20, "{peak} bytes");
}

/// An entry whose key has its number in it, so that none comes twice, and an array of zeros.
fn array_entry() -> impl Fn(u64) -> Vec<u8> {
    |number| {
        let key = format!("key.{number:08}");
        let mut entry = (key.len() as u64).to_le_bytes().to_vec();
        entry.extend(key.as_bytes());
        entry.extend(9u32.to_le_bytes());
        entry.extend(0u32.to_le_bytes());
        entry.extend((ARRAY_BYTES as u64).to_le_bytes());
        entry
    }
}

const ARRAY_BYTES: usize = 100_000;

/// A file that is made as it is read.
struct Repeating<F> {
    head: Vec<u8>,
    at: u64,
    entry: F,
}

impl<F: Fn(u64) -> Vec<u8>> Repeating<F> {
    fn byte(&self, at: u64) -> u8 {
        let Some(after) = at.checked_sub(self.head.len() as u64) else {
            return self.head[at as usize];
        };
        let entry_bytes = (self.entry)(0).len() as u64;
        let (number, within) = (after / (entry_bytes + ARRAY_BYTES as u64), after % (entry_bytes + ARRAY_BYTES as u64));
        if within < entry_bytes { (self.entry)(number)[within as usize] } else { 0 }
    }
}

impl<F: Fn(u64) -> Vec<u8>> Read for Repeating<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // Short reads: those that seek within an array need no more.
        let length = buffer.len().min(64);
        for place in &mut buffer[..length] {
            *place = self.byte(self.at);
            self.at += 1;
        }
        Ok(length)
    }
}

impl<F> Seek for Repeating<F> {
    fn seek(&mut self, position: SeekFrom) -> std::io::Result<u64> {
        self.at = match position {
            SeekFrom::Start(at) => at,
            SeekFrom::End(_) => 1 << 30,
            SeekFrom::Current(step) => self.at.checked_add_signed(step).ok_or(std::io::ErrorKind::InvalidInput)?,
        };
        Ok(self.at)
    }
}

/// The files that were changed are good before the change: what is refused is refused for the change.
#[test]
fn good_files_pass() {
    let summary = gguf::check(Cursor::new(corpus::gguf::Gguf::good().bytes())).expect("it is good");
    assert_eq!((summary.blocks, summary.vocabulary, summary.tensors), (2, 8, 4));
    assert_eq!(summary.data_bytes, 1024 + 1088 + 2048 + 128);
    let summary = onnx::check(Cursor::new(corpus::onnx::Onnx::good().bytes())).expect("it is good");
    assert_eq!((summary.opset, summary.nodes, summary.data_bytes), (17, 1, 16));
    let digits = onnx::check(Cursor::new(weft_engine::digits::MODEL)).expect("it is good");
    assert!(digits.data_bytes > 0);
}

/// Files that look odd and mean well, as exporters and converters write them.
#[test]
fn odd_files_pass() {
    use corpus::onnx::{GRAPH, Onnx, attribute, bytes, function, import, node, port};
    let passes = |what: &str, change: &dyn Fn(&mut Onnx)| {
        let mut file = Onnx::good();
        change(&mut file);
        let result = onnx::check(Cursor::new(file.bytes()));
        assert!(result.is_ok(), "{what}: {result:?}");
    };
    passes("an unused domain", &|file| file.imports.push(import("ai.onnx.training", 1)));
    passes("a function's unused domain", &|file| {
        let body = function("f", "one", &[node("Neg", &["a"], &["b"], &[])]);
        file.after = bytes(25, [body, bytes(9, import("org.pytorch.aten", 1)), bytes(9, import("", 17))].concat());
    });
    passes("a type that an inner graph does not say", &|file| {
        let graph = bytes(6, [bytes(1, node("Neg", &["x"], &["i"], &[])), bytes(12, port("i", 0, &[]))].concat());
        file.nodes.push(node("If", &["x"], &["z"], &attribute("then_branch", GRAPH, &graph)));
    });
    let mut padded = corpus::gguf::Gguf::good();
    padded.add("tokenizer.ggml.padding_token_id", corpus::gguf::U32, vec![0xff; 4]);
    let result = gguf::check(Cursor::new(padded.bytes()));
    assert!(result.is_ok(), "a token for padding that there is not: {result:?}");
}

/// The models that `make models` fetches, where it has.
#[test]
fn real_files_pass() {
    let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    for (name, file) in
        [("magika", "model.onnx"), ("silero_vad", "model.onnx"), ("minilm", "model.onnx"), ("gemma3", "model.gguf")]
    {
        if !models.join(name).exists() {
            println!("skipped: {name} is not there (make models)");
            continue;
        }
        let path = std::path::Path::new("1").join(file);
        let (opened, length) = open_model_file(&models.join(name), &path, 1 << 40).expect("it is a plain file");
        assert!(length > 0);
        if let Err(refusal) = check(file, opened) {
            panic!("{name}: {refusal}");
        }
    }
}

/// Every prefix of a good file, and every byte of it changed, is an answer and never a panic.
#[test]
fn no_prefix_and_no_changed_byte_panics() {
    let files =
        [("model.gguf", corpus::gguf::Gguf::good().bytes()), ("model.onnx", corpus::onnx::Onnx::good().bytes())];
    for (name, bytes) in files {
        for length in 0..bytes.len() {
            let result = check(name, Cursor::new(&bytes[..length]));
            // An ONNX file that ends between two fields may be one of its own.
            assert!(result.is_err() || name == "model.onnx", "{name} cut at {length} passes");
        }
        let head = bytes.len().min(1200);
        let mut changed = bytes.clone();
        for at in 0..head {
            for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x20] {
                changed[at] = value;
                drop(check(name, Cursor::new(&changed)));
            }
            changed[at] = bytes[at];
        }
    }
}

mod files {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn refused(root: &std::path::Path, path: &str) -> Rule {
        open_model_file(root, std::path::Path::new(path), 1 << 20).expect_err("it is refused").rule
    }

    #[test]
    fn only_plain_files_of_the_folder_are_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("1")).expect("made");
        fs::write(root.join("1/model.onnx"), "x").expect("written");
        fs::write(folder.path().join("secret"), "x").expect("written");
        fs::write(root.join("empty"), "").expect("written");
        fs::hard_link(folder.path().join("secret"), root.join("hard")).expect("linked");
        symlink("../secret", root.join("link")).expect("linked");
        symlink("1", root.join("linked")).expect("linked");
        symlink("/proc/self/mem", root.join("memory")).expect("linked");
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), rustix::fs::Mode::RWXU).expect("made");
        let long = fs::File::create(root.join("long")).expect("made");
        long.set_len((1 << 20) + 1).expect("it can be long");

        let (_, length) = open_model_file(&root, std::path::Path::new("1/model.onnx"), 1).expect("it is plain");
        assert_eq!(length, 1);
        for (path, rule) in [
            ("../secret", Rule::Outside),
            ("1/../../secret", Rule::Outside),
            ("/etc/passwd", Rule::Outside),
            ("", Rule::Outside),
            ("link", Rule::Link),
            ("linked/model.onnx", Rule::Link),
            ("memory", Rule::Link),
            ("hard", Rule::HardLink),
            ("pipe", Rule::Kind),
            ("1", Rule::Kind),
            ("empty", Rule::Empty),
            ("long", Rule::Length),
            ("none", Rule::Missing),
            ("none/model.onnx", Rule::Missing),
        ] {
            assert_eq!(refused(&root, path), rule, "{path}");
        }
    }

    #[test]
    fn a_file_of_holes_is_refused_where_the_file_system_tells() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.gguf");
        let bytes = corpus::gguf::Gguf::good().bytes();
        fs::write(&path, bytes).expect("written");
        fs::File::options().write(true).open(&path).expect("opened").set_len(1 << 32).expect("it can be long");
        let opened = open_model_file(folder.path(), std::path::Path::new("model.gguf"), 1 << 40);
        assert_eq!(opened.expect_err("it is refused").rule, Rule::Sparse);
    }
}
