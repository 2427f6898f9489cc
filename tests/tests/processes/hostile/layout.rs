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

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

macro_rules! layouts {
    ($($name:literal: $make:expr,)*) => {
        /// All of them.
        pub(super) const ALL: &[Layout] = &[$(Layout { name: $name, make: $make },)*];
    };
}

layouts! {
    "layout-config-not-text": |place| with(place, "config.pbtxt", &[0xff, 0xfe, 0]),
    "layout-config-unknown-field": |place| config(place, "trust_remote_code: true"),
    "layout-config-wrong-type": |place| config(place, "max_batch_size: \"many\""),
    "layout-config-cut": |place| config(place, "input [ { name: \"x\""),
    "layout-config-quote": |place| config(place, "name: \"layout"),
    "layout-config-deep": |place| config(place, &"{".repeat(100_000)),
    "layout-config-deep-lists": |place| config(place, &"input [".repeat(50_000)),
    "layout-config-2-mib": |place| config(place, &"# ".repeat(1 << 20)),
    "layout-config-number-too-large": |place| config(place, "max_batch_size: 99999999999999999999"),
    "layout-config-other-name": |place| config(place, "name: \"digits\""),
    "layout-backend-python": |place| config(place, "backend: \"python\""),
    "layout-backend-pytorch": |place| config(place, "platform: \"pytorch_libtorch\""),
    "layout-backend-path": |place| config(place, "backend: \"../../evil.so\""),
    "layout-builtin-unknown": |place| config(place, "backend: \"builtin\""),
    "layout-file-upwards": |place| config(place, "default_model_filename: \"../../outside/1/model.onnx\""),
    "layout-file-absolute": |place| config(place, "default_model_filename: \"/etc/passwd\""),
    "layout-file-hidden": |place| config(place, "default_model_filename: \".model.onnx\""),
    "layout-file-of-zeros": |place| config(place, "default_model_filename: \"model\\000.onnx\""),
    "layout-batch-negative": |place| config(place, "max_batch_size: -1"),
    "layout-batch-huge": |place| config(place, "max_batch_size: 2147483647"),
    "layout-batch-fixed-axis": |place| config(place, "max_batch_size: 8"),
    "layout-batching-without-batch": |place| config(place, "dynamic_batching { }"),
    "layout-batch-preferred-beyond": |place| {
        config(place, "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 8 ] }")
    },
    "layout-delay-huge": |place| {
        config(place, "max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 }")
    },
    "layout-instances-negative": |place| config(place, "instance_group [ { count: -1 } ]"),
    "layout-instances-huge": |place| config(place, "instance_group [ { count: 2147483647 } ]"),
    "layout-ensemble": |place| config(place, "ensemble_scheduling { step [ { model_name: \"digits\" } ] }"),
    "layout-decoupled": |place| config(place, "model_transaction_policy { decoupled: true }"),
    "layout-versions-none": |place| config(place, "version_policy { specific { versions: [ 7 ] } }"),
    "layout-input-of-other-name": |place| {
        config(place, "input [ { name: \"z\" data_type: TYPE_FP32 dims: [ 1, 4 ] } ]")
    },
    "layout-input-of-other-type": |place| {
        config(place, "input [ { name: \"x\" data_type: TYPE_INT64 dims: [ 1, 4 ] } ]")
    },
    "layout-two-configs": |place| {
        config(place, "max_batch_size: 0")?;
        fs::write(place.model.join("config.toml"), "max_batch_size = 0")
    },
    "layout-toml-broken": |place| with(place, "config.toml", b"max_batch_size = ["),
    "layout-toml-unknown-field": |place| with(place, "config.toml", b"evil = 1"),
    "layout-config-a-folder": |place| {
        fs::create_dir_all(place.model.join("config.pbtxt"))?;
        bare(place)?;
        fs::write(place.model.join("1/model.onnx"), Onnx::good().bytes())
    },
    "layout-config-linked-outside": |place| {
        with(place, "x", b"")?;
        symlink("/etc/passwd", place.model.join("config.pbtxt"))
    },
    "layout-config-linked-nowhere": |place| {
        with(place, "x", b"")?;
        symlink("nowhere", place.model.join("config.pbtxt"))
    },
    "layout-file-linked-outside": |place| {
        bare(place)?;
        symlink(place.outside.join("1/model.onnx"), place.model.join("1/model.onnx"))
    },
    "layout-version-linked-outside": |place| {
        fs::create_dir_all(place.model)?;
        symlink(place.outside.join("1"), place.model.join("1"))
    },
    "layout-file-in-a-circle": |place| {
        bare(place)?;
        symlink("model.onnx", place.model.join("1/model.onnx"))
    },
    "layout-file-a-hard-link": |place| {
        bare(place)?;
        fs::hard_link(place.outside.join("1/model.onnx"), place.model.join("1/model.onnx"))
    },
    "layout-file-a-pipe": |place| {
        bare(place)?;
        let path = place.model.join("1/model.onnx");
        let made = std::process::Command::new("mkfifo").arg(path).status()?;
        if made.success() { Ok(()) } else { Err(io::Error::other("mkfifo failed")) }
    },
    "layout-file-a-folder": |place| fs::create_dir_all(place.model.join("1/model.onnx")),
    "layout-file-missing": bare,
    "layout-file-of-holes": |place| {
        bare(place)?;
        File::create(place.model.join("1/model.onnx"))?.set_len(1 << 30)
    },
    "layout-file-of-3-gib": |place| {
        bare(place)?;
        File::create(place.model.join("1/model.onnx"))?.set_len(3 << 30)
    },
    "layout-pickle-alone": |place| {
        bare(place)?;
        fs::write(place.model.join("1/pytorch_model.bin"), b"\x80\x02cposix\nsystem\n.")
    },
    "layout-python-alone": |place| {
        bare(place)?;
        fs::write(place.model.join("1/model.py"), "import os")
    },
    "layout-no-version": |place| fs::create_dir_all(place.model),
    "layout-version-0": |place| fs::create_dir_all(place.model.join("0")),
    "layout-version-negative": |place| fs::create_dir_all(place.model.join("-1")),
    "layout-version-beyond": |place| fs::create_dir_all(place.model.join("99999999999999999999")),
    "layout-manifest-other-digest": |place| manifest(place, &format!("{ZEROS}  1/model.onnx\n")),
    "layout-manifest-file-not-listed": |place| manifest(place, "\n"),
    "layout-manifest-file-missing": |place| manifest(place, &format!("{ZEROS}  1/other.onnx\n")),
    "layout-manifest-upwards": |place| manifest(place, &format!("{ZEROS}  ../../outside/1/model.onnx\n")),
    "layout-manifest-absolute": |place| manifest(place, &format!("{ZEROS}  /etc/passwd\n")),
    "layout-manifest-short-digest": |place| manifest(place, "0123  1/model.onnx\n"),
    "layout-manifest-twice": |place| manifest(place, &format!("{ZEROS}  1/model.onnx\n").repeat(2)),
    "layout-manifest-not-text": |place| with(place, "manifest.sha256", &[0xff; 80]),
    "layout-name with a space": |place| config(place, ""),
    "layout-name\nwith-a-line": |place| config(place, ""),
    "layout-name-\u{202e}backwards": |place| config(place, ""),
}
