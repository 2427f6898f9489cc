//! The models that Weft and its peers serve alike, described once and told to each in its own words.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use weft_tests::load::closed::Case;
use weft_tests::tools;

/// The most items of a batch, for every server alike.
pub(crate) const MOST_ROWS: usize = 64;
/// How long Triton's batcher waits for company where it is told to: a fixed delay, as its documentation tunes it.
pub(crate) const DELAY_US: u64 = 5_000;
/// Names of the variant of a model with that delay.
pub(crate) const DELAYED: &str = "_delayed";

/// Names of the variant that sorts out waiting requests by their own `timeout`, Triton's own means for deadlines.
pub(crate) const TIMED: &str = "_timed";
/// Names of the variant whose requests MLServer batches.
pub(crate) const BATCHED: &str = "_batched";

/// A tensor of one item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) name: &'static str,
    pub(crate) datatype: &'static str,
    /// The axes behind the batch's; -1 is free.
    pub(crate) dims: &'static [i64],
}

/// A model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub(crate) name: &'static str,
    pub(crate) inputs: &'static [Axis],
    pub(crate) output: Axis,
    /// Whether Weft has it without a repository.
    pub(crate) is_builtin: bool,
}

pub(crate) const IDENTITY: Served = Served {
    name: "identity",
    inputs: &[Axis { name: "INPUT", datatype: "FP32", dims: &[16] }],
    output: Axis { name: "OUTPUT", datatype: "FP32", dims: &[16] },
    is_builtin: true,
};

pub(crate) const DIGITS: Served = Served {
    name: "digits",
    inputs: &[Axis { name: "PIXELS", datatype: "FP32", dims: &[64] }],
    output: Axis { name: "LABEL", datatype: "INT64", dims: &[] },
    is_builtin: true,
};

pub(crate) const MINILM: Served = Served {
    name: "minilm",
    inputs: &[
        Axis { name: "input_ids", datatype: "INT64", dims: &[-1] },
        Axis { name: "attention_mask", datatype: "INT64", dims: &[-1] },
    ],
    output: Axis { name: "sentence_embedding", datatype: "FP32", dims: &[384] },
    is_builtin: false,
};

pub(crate) const MAGIKA: Served = Served {
    name: "magika",
    inputs: &[Axis { name: "bytes", datatype: "INT32", dims: &[2048] }],
    output: Axis { name: "target_label", datatype: "FP32", dims: &[214] },
    is_builtin: false,
};

impl Served {
    /// Its ONNX file; none for identity.
    pub(crate) fn onnx(&self) -> Result<Option<PathBuf>> {
        let path = match self.name {
            "identity" => return Ok(None),
            "digits" => {
                PathBuf::from(env!("CARGO_MANIFEST_DIR")).with_file_name("shared/engine/models/digits/model.onnx")
            }
            name => tools::models().join(name).join("1/model.onnx"),
        };
        ensure!(path.is_file(), "the model {} is not there; run `make models`", self.name);
        Ok(Some(path))
    }

    fn tensors(&self) -> String {
        let tensor = |axis: &Axis| {
            // Triton wants at least one axis behind the batch's, and may be told to drop it.
            let (dims, reshape) =
                if axis.dims.is_empty() { (&[1][..], " reshape: { shape: [ ] }") } else { (axis.dims, "") };
            format!("{{ name: \"{}\" data_type: TYPE_{} dims: {dims:?}{reshape} }}", axis.name, axis.datatype)
        };
        let inputs: Vec<String> = self.inputs.iter().map(tensor).collect();
        format!("input [ {} ]\noutput [ {} ]\n", inputs.join(", "), tensor(&self.output))
    }
}

/// The same calls to a model's variant of this suffix.
pub(crate) fn renamed(cases: &Arc<[Case]>, suffix: &str) -> Arc<[Case]> {
    let renamed = cases.iter().cloned().map(|mut case| {
        case.request.model_name.push_str(suffix);
        case
    });
    renamed.collect()
}

/// What MLServer's and Ray's models read.
pub(crate) fn description(models: &[Served], threads: usize) -> Result<Value> {
    let types =
        |axes: &[Axis]| -> Value { axes.iter().map(|axis| (axis.name.to_owned(), json!(axis.datatype))).collect() };
    let mut described = serde_json::Map::new();
    for model in models {
        let of_model = json!({
            "onnx": model.onnx()?, "inputs": types(model.inputs), "outputs": types(&[model.output]),
        });
        described.insert(model.name.to_owned(), of_model);
    }
    Ok(json!({ "threads": threads, "models": described }))
}

/// A repository for Triton's Python backend, each model also with a fixed delay, and with timeouts.
pub(crate) fn triton(folder: &Path, models: &[Served], threads: usize) -> Result<()> {
    let code = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/peers/triton_model.py");
    for model in models {
        // A request's own timeout counts where it is the shorter one, so there must be one to be shorter than.
        let timed = "default_queue_policy { timeout_action: REJECT allow_timeout_override: true \
                     default_timeout_microseconds: 60000000 }";
        let delayed = format!("max_queue_delay_microseconds: {DELAY_US}");
        let batching = [("", String::new()), (DELAYED, delayed), (TIMED, timed.to_owned())];
        for (suffix, batching) in batching {
            let mut config = format!("backend: \"python\"\nmax_batch_size: {MOST_ROWS}\n{}", model.tensors());
            writeln!(config, "instance_group [ {{ kind: KIND_CPU count: 1 }} ]\ndynamic_batching {{ {batching} }}")?;
            let parameters = model.onnx()?.map(|path| ("onnx", path.display().to_string()));
            for (key, value) in parameters.into_iter().chain([("threads", threads.to_string())]) {
                writeln!(config, "parameters {{ key: \"{key}\" value {{ string_value: \"{value}\" }} }}")?;
            }
            let of_model = folder.join(format!("{}{suffix}", model.name));
            std::fs::create_dir_all(of_model.join("1"))?;
            std::fs::copy(&code, of_model.join("1/model.py"))?;
            std::fs::write(of_model.join("config.pbtxt"), config)?;
        }
    }
    Ok(())
}

/// A repository for Weft, of those that it has not built in.
pub(crate) fn weft(folder: &Path, models: &[Served]) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for model in models.iter().filter(|model| !model.is_builtin) {
        let of_model = folder.join(model.name);
        std::fs::create_dir_all(of_model.join("1"))?;
        let onnx = model.onnx()?.context("a foreign model has a file")?;
        std::fs::copy(onnx, of_model.join("1/model.onnx"))?;
        // `onnx` is ONNX Runtime where its library is there.
        let config = format!(
            "name: \"{}\"\nbackend: \"onnx\"\nmax_batch_size: {MOST_ROWS}\n{}dynamic_batching {{ }}\n",
            model.name,
            model.tensors()
        );
        std::fs::write(of_model.join("config.pbtxt"), config)?;
    }
    Ok(())
}
