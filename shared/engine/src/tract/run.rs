//! A loaded graph and its executions, on the thread that calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tract_onnx::prelude::{TValue, TVec, TractResult};
use tract_onnx::tract_core::plan::eval;
use tract_onnx::tract_hir::internal::ensure;

use super::batch::{Chunk, chunks, sizes};
use super::estimate_bytes;
use super::gather::{Answer, gather, whole};
use super::graph::{Graph, Plan, datum_type, problem};
use super::plans::{Plans, Shapes};
use crate::batching::{available_threads, check_axes, check_empty, groups, instances, made_up, made_up_shapes};
use crate::running::Permit;
use crate::{Error, Inputs, Outputs, Port, Signature, Spec, Tensor};

/// Plans for shapes beyond the batch sizes: of models whose other axes are free, too.
const LEAST_PLANS: usize = 8;

/// The most bytes of one row of made-up input: beyond what a gRPC message brings.
const MOST_MADE_UP_BYTES: u64 = 256 << 20;

/// One execution: it counts as running while this lives, and looks here whether anybody still waits for it.
pub(super) struct Execution {
    permit: Permit,
    stop: Arc<AtomicBool>,
}

impl Execution {
    pub(super) fn new(permit: Permit, stop: Arc<AtomicBool>) -> Self {
        Self { permit, stop }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Before each graph node: this is the yield point.
    fn step(&self) -> TractResult<()> {
        ensure!(!self.stopped(), "stopped");
        self.permit.step();
        Ok(())
    }
}

/// A graph with its plans.
pub(super) struct Loaded {
    graph: Graph,
    plans: Plans<Plan>,
    signature: Signature,
    size_bytes: u64,
}

impl Loaded {
    pub(super) fn load(bytes: &[u8], spec: &Spec) -> Result<Self, Error> {
        let graph = Graph::parse(bytes)?;
        let signature = Signature {
            platform: "onnx".to_owned(),
            inputs: graph.inputs.clone(),
            outputs: graph.outputs.clone(),
            max_batch_size: spec.max_batch_size,
            concurrency: instances(&spec.parameters)?.unwrap_or_else(available_threads),
        };
        check_axes(&signature)?;
        let plans = Plans::new(sizes(spec.max_batch_size).count().max(LEAST_PLANS));
        let size_bytes = estimate_bytes(bytes.len() as u64, spec.max_batch_size);
        let loaded = Self { graph, plans, signature, size_bytes };
        loaded.make_plans()?;
        Ok(loaded)
    }

    pub(super) fn signature(&self) -> &Signature {
        &self.signature
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Makes the plan for every batch size, which also shows an operator that the runtime lacks. Free axes are not guessed: their plans
    /// are made by the first requests.
    fn make_plans(&self) -> Result<(), Error> {
        let sizes = std::iter::once(1).chain(sizes(self.signature.max_batch_size));
        let mut shapes = sizes.filter_map(|size| self.made_up_shapes(size));
        shapes.try_for_each(|shapes| self.plan(shapes).map(drop)).map_err(|error| Error::Load(error.to_string()))
    }

    /// Executes the smallest batch.
    pub(super) fn warm(&self, execution: &Execution) -> Result<(), Error> {
        let Some(request) = made_up(&self.graph.inputs, 1, MOST_MADE_UP_BYTES)? else {
            return Ok(());
        };
        self.execute(&[request], execution)?.into_iter().try_for_each(|answer| answer.map(|_| ()))
    }

    fn made_up_shapes(&self, rows: usize) -> Option<Shapes> {
        made_up_shapes(&self.graph.inputs, rows)
    }

    /// Answers each request; those of one shape are executed together when the model batches.
    pub(super) fn execute(
        &self,
        batch: &[Inputs],
        execution: &Execution,
    ) -> Result<Vec<Result<Outputs, Error>>, Error> {
        let mut answers: Vec<Result<Outputs, Error>> = vec![Err(stopped()); batch.len()];
        for group in groups(batch, self.signature.max_batch_size) {
            let requests: Vec<&Inputs> = group.iter().map(|at| &batch[*at]).collect();
            let together = self.attempt(&requests, execution);
            match together {
                Ok(outputs) => group.iter().zip(outputs).for_each(|(at, outputs)| answers[*at] = Ok(outputs)),
                Err(error) if group.len() == 1 => answers[group[0]] = Err(error),
                // One request's failure is not the others': each gets the answer it would have had alone.
                Err(_) => group.iter().for_each(|at| answers[*at] = self.alone(&batch[*at], execution)),
            }
        }
        Ok(answers)
    }

    fn alone(&self, request: &Inputs, execution: &Execution) -> Result<Outputs, Error> {
        let mut answers = self.attempt(&[request], execution)?;
        answers.pop().ok_or_else(stopped)
    }

    /// A panic of the runtime fails the requests that it happened on and nothing else: plans are not changed by a run.
    fn attempt(&self, requests: &[&Inputs], execution: &Execution) -> Result<Vec<Outputs>, Error> {
        if execution.stopped() {
            return Err(stopped());
        }
        requests.iter().flat_map(|request| request.iter()).try_for_each(check_empty)?;
        let run = || match self.signature.max_batch_size {
            0 => self.unbatched(requests, execution),
            max => self.batched(requests, max, execution),
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Error::Run("the runtime failed".to_owned())))
    }

    fn unbatched(&self, requests: &[&Inputs], execution: &Execution) -> Result<Vec<Outputs>, Error> {
        let answer = |request: &&Inputs| {
            let plan = self.plan(request.iter().map(|tensor| tensor.shape.clone()).collect())?;
            let inputs = self.graph.inputs.iter().zip(request.iter());
            let inputs = inputs.map(|(port, tensor)| whole(datum_type(port), &tensor.shape, &tensor.data));
            let answers =
                self.run(&plan, inputs.collect::<Result<_, _>>().map_err(|error| failed(&error))?, execution)?;
            Ok(self.outputs(answers.into_iter()))
        };
        requests.iter().map(answer).collect()
    }

    /// Gathers the requests' rows, executes them in chunks and hands each request its rows of the answer.
    fn batched(&self, requests: &[&Inputs], max: usize, execution: &Execution) -> Result<Vec<Outputs>, Error> {
        let rows: Vec<usize> = requests.iter().map(|request| request.first().map_or(1, Tensor::rows)).collect();
        let mut answers = vec![Vec::new(); self.graph.outputs.len()];
        for chunk in chunks(rows.iter().sum(), max) {
            for (answer, part) in answers.iter_mut().zip(self.chunk(requests, chunk, execution)?) {
                answer.push(part.take_rows(chunk).map_err(|error| failed(&error))?);
            }
        }
        let answers = answers.into_iter().map(Answer::join).collect::<Result<Vec<_>, _>>();
        let answers = answers.map_err(|error| failed(&error))?;
        let mut start = 0;
        let mut outputs = Vec::with_capacity(requests.len());
        for rows in rows {
            outputs.push(self.outputs(answers.iter().map(|answer| answer.rows(start, rows))));
            start += rows;
        }
        Ok(outputs)
    }

    fn chunk(&self, requests: &[&Inputs], chunk: Chunk, execution: &Execution) -> Result<Vec<Answer>, Error> {
        let tails = requests.first().map(|request| request.as_slice()).unwrap_or_default();
        let shape = |tensor: &Tensor| [&[chunk.size], tensor.shape.get(1..).unwrap_or_default()].concat();
        let shapes: Shapes = tails.iter().map(shape).collect();
        let plan = self.plan(shapes.clone())?;
        let mut inputs = TVec::new();
        for (at, (port, shape)) in self.graph.inputs.iter().zip(&shapes).enumerate() {
            let parts: Vec<_> = requests.iter().filter_map(|request| request.get(at)).map(|part| &part.data).collect();
            inputs.push(gather(datum_type(port), shape, &parts, chunk).map_err(|error| failed(&error))?);
        }
        self.run(&plan, inputs, execution)
    }

    fn plan(&self, shapes: Shapes) -> Result<Plan, Error> {
        self.plans.get(shapes, |shapes| self.graph.plan(shapes)).map_err(|error| failed(&error))
    }

    /// Executes a plan, looking before every node whether to stop.
    fn run(&self, plan: &Plan, inputs: TVec<TValue>, execution: &Execution) -> Result<Vec<Answer>, Error> {
        let run = || -> TractResult<Vec<Answer>> {
            let answers = plan.spawn()?.run_plan_with_eval(inputs, |context, state, node, inputs| {
                execution.step()?;
                eval(context, state, node, inputs)
            })?;
            let ports = self.graph.outputs.iter();
            answers.into_iter().zip(ports).map(|(answer, port)| Answer::new(answer, datum_type(port))).collect()
        };
        run().map_err(|error| failed(&error))
    }

    fn outputs(&self, answers: impl Iterator<Item = Answer>) -> Outputs {
        let output = |(port, answer): (&Port, Answer)| {
            let name = port.name.clone();
            Some(Tensor { name, datatype: port.datatype?, shape: answer.shape, data: answer.data })
        };
        self.graph.outputs.iter().zip(answers).filter_map(output).collect()
    }
}

fn failed(error: &tract_onnx::prelude::TractError) -> Error {
    Error::Run(problem(error))
}

fn stopped() -> Error {
    Error::Run("stopped".to_owned())
}
