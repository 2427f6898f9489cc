//! The checked-in code under `src/gen` is what the contracts under `proto/` make; `make proto` rewrites it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use prost::Message as _;
use prost_types::FileDescriptorSet;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The inference service as the router serves it: inference messages are whole frames, everything else is decoded.
fn raw_inference(descriptors: &FileDescriptorSet) -> Result<tonic_build::manual::Service> {
    const NAME: &str = "GRPCInferenceService";
    let declared = descriptors.file.iter().flat_map(|file| &file.service).find(|service| service.name() == NAME);
    let mut service = tonic_build::manual::Service::builder().name(NAME).package("inference");
    for method in &declared.context("the service is declared")?.method {
        let is_raw = ["ModelInfer", "ModelStreamInfer"].contains(&method.name());
        let of = |name: &str| {
            let name = name.rsplit('.').next().unwrap_or(name);
            if is_raw { "bytes::Bytes".to_owned() } else { format!("crate::inference::{name}") }
        };
        let mut built = tonic_build::manual::Method::builder()
            .name(snake(method.name()))
            .route_name(method.name())
            .input_type(of(method.input_type()))
            .output_type(of(method.output_type()))
            .codec_path(if is_raw { "crate::codec::BytesCodec" } else { "tonic_prost::ProstCodec" });
        if method.client_streaming() {
            built = built.client_streaming();
        }
        if method.server_streaming() {
            built = built.server_streaming();
        }
        service = service.method(built.build());
    }
    Ok(service.build())
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn contracts(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "proto") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn generate(out: &Path) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let descriptors = protox::compile(contracts(&root)?, [&root])?;
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), bare.encode_to_vec())?;
    let raw_service = raw_inference(&descriptors)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".inference")
        // Definitions are hashed as they are encoded, so their maps have an order.
        .btree_map(".xds")
        .btree_map(".weft.jobs")
        .emit_rerun_if_changed(false)
        .include_file("tree.rs")
        .out_dir(out)
        .compile_fds(descriptors)?;
    let raw = out.join("raw");
    fs::create_dir_all(&raw)?;
    tonic_build::manual::Builder::new().build_transport(false).out_dir(&raw).compile(&[raw_service]);
    Ok(())
}

fn read(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder)?.to_path_buf();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "`make proto` asks for a rewrite through the environment")]
fn the_checked_in_code_is_what_the_contracts_make() -> Result<()> {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    let fresh = tempfile::tempdir()?;
    generate(fresh.path())?;
    if std::env::var_os("WEFT_BLESS").is_some() {
        fs::remove_dir_all(&checked_in)?;
        for (name, content) in read(fresh.path())? {
            let path = checked_in.join(name);
            fs::create_dir_all(path.parent().context("has a parent")?)?;
            fs::write(path, content)?;
        }
        return Ok(());
    }
    let (old, new) = (read(&checked_in)?, read(fresh.path())?);
    let stale: Vec<&PathBuf> = old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name)).collect();
    assert!(stale.is_empty(), "run `make proto`: these are stale: {stale:?}");
    Ok(())
}
