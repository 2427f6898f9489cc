//! Folders of models that mean harm, or are merely wrong: their configuration, their manifest, what they are made of.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::corpus::onnx::Onnx;

/// Where an entry is made.
pub(super) struct Place<'a> {
    /// The model's folder, not there yet.
    pub(super) model: &'a Path,
    /// A good model outside of the repository.
    pub(super) outside: &'a Path,
}

/// One entry of the repository.
pub(super) struct Layout {
    pub(super) name: &'static str,
    /// What it must be refused for.
    pub(super) reason: &'static str,
    pub(super) make: fn(&Place<'_>) -> io::Result<()>,
}

/// A folder with a good model, and this file beside its versions.
fn with(place: &Place<'_>, name: &str, content: &[u8]) -> io::Result<()> {
    fs::create_dir_all(place.model.join("1"))?;
    fs::write(place.model.join("1/model.onnx"), Onnx::good().bytes())?;
    fs::write(place.model.join(name), content)
}

fn config(place: &Place<'_>, text: &str) -> io::Result<()> {
    with(place, "config.pbtxt", text.as_bytes())
}

/// A good model with a manifest of this line.
fn manifest(place: &Place<'_>, line: &str) -> io::Result<()> {
    with(place, "manifest.sha256", line.as_bytes())
}

/// A folder of a version without a model in it.
fn bare(place: &Place<'_>) -> io::Result<()> {
    fs::create_dir_all(place.model.join("1"))
}

/// A model that is as it should be: what refuses the others refuses nothing that is right.
pub(super) fn good(place: &Place<'_>) -> io::Result<()> {
    config(place, "max_batch_size: 0")
}

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

macro_rules! layouts {
    ($($name:literal, $reason:literal: $make:expr,)*) => {
        /// All of them.
        pub(super) const ALL: &[Layout] = &[$(Layout { name: $name, reason: $reason, make: $make },)*];
    };
}

layouts! {
    "layout-config-not-text", "config.pbtxt: cannot be read (invalid data)": |place| with(place, "config.pbtxt", &[0xff, 0xfe, 0]),
    "layout-config-unknown-field", "trust_remote_code": |place| config(place, "trust_remote_code: true"),
    "layout-config-wrong-type", "expected an integer": |place| config(place, "max_batch_size: \"many\""),
    "layout-config-cut", "expected '}' or a field name, but reached end of input": |place| config(place, "input [ { name: \"x\""),
    "layout-config-quote", "expected string terminator": |place| config(place, "name: \"layout"),
    "layout-config-deep", "expected a field name, but found '{'": |place| config(place, &"{".repeat(100_000)),
    "layout-config-deep-lists", "expected '{' or '<', but found 'input'": |place| config(place, &"input [".repeat(50_000)),
    "layout-config-2-mib", "config.pbtxt: longer than 1048576 bytes": |place| config(place, &"# ".repeat(1 << 20)),
    "layout-config-number-too-large", "99999999999999999999 is out of range": |place| config(place, "max_batch_size: 99999999999999999999"),
    "layout-config-other-name", "name: differs from the folder's": |place| config(place, "name: \"digits\""),
    "layout-backend-python", "backend: expected builtin, tract": |place| config(place, "backend: \"python\""),
    "layout-backend-pytorch", "backend: expected builtin, tract": |place| config(place, "platform: \"pytorch_libtorch\""),
    "layout-backend-path", "backend: expected builtin, tract": |place| config(place, "backend: \"../../evil.so\""),
    "layout-builtin-unknown", "parameters[\"model\"]: expected one of": |place| config(place, "backend: \"builtin\""),
    "layout-file-upwards", "default_model_filename: expected a file name": |place| config(place, "default_model_filename: \"../../outside/1/model.onnx\""),
    "layout-file-absolute", "default_model_filename: expected a file name": |place| config(place, "default_model_filename: \"/etc/passwd\""),
    "layout-file-hidden", "default_model_filename: expected a file name": |place| config(place, "default_model_filename: \".model.onnx\""),
    "layout-file-of-zeros", "default_model_filename: expected a file name": |place| config(place, "default_model_filename: \"model\\000.onnx\""),
    "layout-batch-negative", "max_batch_size: expected 0 to 65536": |place| config(place, "max_batch_size: -1"),
    "layout-batch-huge", "max_batch_size: expected 0 to 65536": |place| config(place, "max_batch_size: 2147483647"),
    "layout-batch-fixed-axis", "'x' has no free first axis": |place| config(place, "max_batch_size: 8"),
    "layout-batching-without-batch", "dynamic_batching: needs a max_batch_size": |place| config(place, "dynamic_batching { }"),
    "layout-batch-preferred-beyond", "dynamic_batching.preferred_batch_size: expected 1 to max_batch_size": |place| {
        config(place, "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 8 ] }")
    },
    "layout-delay-huge", "dynamic_batching.max_queue_delay_microseconds: expected at most": |place| {
        config(place, "max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 }")
    },
    "layout-instances-negative", "instance_group.count: expected 1 to 1024": |place| config(place, "instance_group [ { count: -1 } ]"),
    "layout-instances-huge", "instance_group.count: expected 1 to 1024": |place| config(place, "instance_group [ { count: 2147483647 } ]"),
    "layout-ensemble", "ensemble_scheduling: is not offered": |place| config(place, "ensemble_scheduling { step [ { model_name: \"digits\" } ] }"),
    "layout-decoupled", "model_transaction_policy.decoupled: is not offered": |place| config(place, "model_transaction_policy { decoupled: true }"),
    "layout-versions-none", "there is no version that its configuration allows": |place| config(place, "version_policy { specific { versions: [ 7 ] } }"),
    "layout-input-of-other-name", "the configuration has an input z that the model lacks": |place| {
        config(place, "input [ { name: \"z\" data_type: TYPE_FP32 dims: [ 1, 4 ] } ]")
    },
    "layout-input-of-other-type", "the configuration's type of input x is not the model's": |place| {
        config(place, "input [ { name: \"x\" data_type: TYPE_INT64 dims: [ 1, 4 ] } ]")
    },
    "layout-two-configs", "there are both config.pbtxt and config.toml": |place| {
        config(place, "max_batch_size: 0")?;
        fs::write(place.model.join("config.toml"), "max_batch_size = 0")
    },
    "layout-toml-broken", "unclosed array": |place| with(place, "config.toml", b"max_batch_size = ["),
    "layout-toml-unknown-field", "unrecognized field name 'evil'": |place| with(place, "config.toml", b"evil = 1"),
    "layout-config-a-folder", "config.pbtxt: not a plain file": |place| {
        fs::create_dir_all(place.model.join("config.pbtxt"))?;
        bare(place)?;
        fs::write(place.model.join("1/model.onnx"), Onnx::good().bytes())
    },
    "layout-config-linked-outside", "config.pbtxt: a link leads out of the repository": |place| {
        with(place, "x", b"")?;
        symlink("/etc/passwd", place.model.join("config.pbtxt"))
    },
    "layout-config-linked-nowhere", "config.pbtxt: cannot be read (entity not found)": |place| {
        with(place, "x", b"")?;
        symlink("nowhere", place.model.join("config.pbtxt"))
    },
    "layout-file-linked-outside", "model.onnx: a link leads out of the repository": |place| {
        bare(place)?;
        symlink(place.outside.join("1/model.onnx"), place.model.join("1/model.onnx"))
    },
    "layout-version-linked-outside", "a link leads out of the repository": |place| {
        fs::create_dir_all(place.model)?;
        symlink(place.outside.join("1"), place.model.join("1"))
    },
    "layout-file-in-a-circle", "model.onnx: cannot be read": |place| {
        bare(place)?;
        symlink("model.onnx", place.model.join("1/model.onnx"))
    },
    "layout-file-a-hard-link", "a file with more than one name": |place| {
        bare(place)?;
        fs::hard_link(place.outside.join("1/model.onnx"), place.model.join("1/model.onnx"))
    },
    "layout-file-a-pipe", "model.onnx: not a plain file": |place| {
        bare(place)?;
        let path = place.model.join("1/model.onnx");
        let made = std::process::Command::new("mkfifo").arg(path).status()?;
        if made.success() { Ok(()) } else { Err(io::Error::other("mkfifo failed")) }
    },
    "layout-file-a-folder", "model.onnx: not a plain file": |place| fs::create_dir_all(place.model.join("1/model.onnx")),
    "layout-file-missing", "model.onnx: cannot be read (entity not found)": bare,
    "layout-file-of-holes", "mostly holes": |place| {
        with(place, "x", b"")?;
        File::options().write(true).open(place.model.join("1/model.onnx"))?.set_len(1 << 30)
    },
    "layout-file-of-3-gib", "model.onnx: longer than": |place| {
        bare(place)?;
        File::create(place.model.join("1/model.onnx"))?.set_len(3 << 30)
    },
    "layout-pickle-alone", "model.onnx: cannot be read (entity not found)": |place| {
        bare(place)?;
        fs::write(place.model.join("1/pytorch_model.bin"), b"\x80\x02cposix\nsystem\n.")
    },
    "layout-python-alone", "model.onnx: cannot be read (entity not found)": |place| {
        bare(place)?;
        fs::write(place.model.join("1/model.py"), "import os")
    },
    "layout-no-version", "there is no version that its configuration allows": |place| fs::create_dir_all(place.model),
    "layout-version-0", "there is no version that its configuration allows": |place| fs::create_dir_all(place.model.join("0")),
    "layout-version-negative", "there is no version that its configuration allows": |place| fs::create_dir_all(place.model.join("-1")),
    "layout-version-beyond", "there is no version that its configuration allows": |place| fs::create_dir_all(place.model.join("99999999999999999999")),
    "layout-manifest-other-digest", "1/model.onnx: is not what": |place| manifest(place, &format!("{ZEROS}  1/model.onnx\n")),
    "layout-manifest-file-not-listed", "1/model.onnx: is not listed": |place| manifest(place, "\n"),
    "layout-manifest-file-missing", "1/other.onnx: is listed in manifest.sha256 and missing": |place| manifest(place, &format!("{ZEROS}  1/other.onnx\n")),
    "layout-manifest-upwards", "line 1: expected": |place| manifest(place, &format!("{ZEROS}  ../../outside/1/model.onnx\n")),
    "layout-manifest-absolute", "line 1: expected": |place| manifest(place, &format!("{ZEROS}  /etc/passwd\n")),
    "layout-manifest-short-digest", "line 1: expected": |place| manifest(place, "0123  1/model.onnx\n"),
    "layout-manifest-twice", "manifest.sha256: line 2: the file is listed twice": |place| manifest(place, &format!("{ZEROS}  1/model.onnx\n").repeat(2)),
    "layout-manifest-not-text", "manifest.sha256: cannot be read (invalid data)": |place| with(place, "manifest.sha256", &[0xff; 80]),
    "layout-name with a space", "the name must be": |place| config(place, ""),
    "layout-name\nwith-a-line", "the name must be": |place| config(place, ""),
    "layout-name-\u{202e}backwards", "the name must be": |place| config(place, ""),
}
