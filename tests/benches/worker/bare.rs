//! onnxruntime without a server: a Python loop, driven line by line. It also makes the inputs and the answers they must get.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::Value;
use weft_proto::inference::ModelInferRequest;
use weft_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use weft_tests::load::closed::{Case, Expected, Slice};
use weft_tests::tools;

use super::served::Served;

/// Batches of other sizes add up in another order; what is served is at most a few hundred such sums deep.
const DISTANCE: f32 = 2e-3;
/// Different inputs of one size, so that a batch is not of one item many times over.
const CASES: usize = 8;

/// The loop over one model.
pub(crate) struct Bare {
    model: Served,
    folder: PathBuf,
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Bare {
    pub(crate) fn start(model: Served, threads: usize, folder: &Path) -> Result<Self> {
        let folder = folder.join(format!("bare-{}", model.name));
        std::fs::create_dir_all(&folder)?;
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/peers/bare_onnx.py");
        let onnx = model.onnx()?.context("the bare loop runs an ONNX file")?;
        let mut child = Command::new(tools::tool("models-venv/bin/python").context("run tests/scripts/models.sh")?)
            .arg(script)
            .arg(onnx)
            .arg(threads.to_string())
            .args([folder.as_path(), Path::new(model.output.name)])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = child.stdin.take().context("stdin is piped")?;
        let answers = BufReader::new(child.stdout.take().context("stdout is piped")?);
        Ok(Self { model, folder, child, commands, answers })
    }

    /// Requests of so many items each, and what they must be answered; texts have `length` tokens.
    pub(crate) fn cases(&mut self, rows: usize, length: usize) -> Result<Arc<[Case]>> {
        let described = self.ask(&format!("cases {rows} {CASES} {length}"))?;
        (0..CASES).map(|at| self.case(rows, at, &described)).collect()
    }

    /// Runs the same requests in the bare loop.
    pub(crate) fn run(&mut self, rows: usize, lasting: Duration) -> Result<Slice> {
        let told = self.ask(&format!("run {rows} {}", lasting.as_millis()))?;
        let times = told["times_us"].as_array().context("the loop tells its times")?;
        let times = times.iter().map(|time| Duration::from_micros(time.as_u64().unwrap_or_default())).collect();
        let elapsed = told["elapsed_us"].as_u64().context("the loop tells its time")?;
        Ok(Slice::lasting(Duration::from_micros(elapsed), times))
    }

    fn ask(&mut self, command: &str) -> Result<Value> {
        writeln!(self.commands, "{command}")?;
        self.commands.flush()?;
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "the bare loop over {} has ended", self.model.name);
        Ok(serde_json::from_str(&line)?)
    }

    fn case(&self, rows: usize, at: usize, described: &Value) -> Result<Case> {
        let file = |name: &str| std::fs::read(self.folder.join(format!("{rows}-{at}-{name}"))).map(Bytes::from);
        let mut request = ModelInferRequest { model_name: self.model.name.to_owned(), ..Default::default() };
        for input in described["inputs"].as_array().context("the loop tells its inputs")? {
            let text = |key: &str| input[key].as_str().unwrap_or_default().to_owned();
            let shape = input["shape"].as_array().context("an input has a shape")?;
            request.raw_input_contents.push(file(&text("name"))?);
            request.inputs.push(InferInputTensor {
                name: text("name"),
                datatype: text("datatype"),
                shape: shape.iter().filter_map(Value::as_i64).collect(),
                ..Default::default()
            });
        }
        let output = self.model.output.name.to_owned();
        request.outputs.push(InferRequestedOutputTensor { name: output.clone(), ..Default::default() });
        Ok(Case { request, output, expected: Expected::Near(file("answer")?, DISTANCE) })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It holds nothing that needs an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
