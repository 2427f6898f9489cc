"""The Python backend's side of every model that Triton serves beside Weft: identity, or an ONNX file with onnxruntime.

Triton batches what waits (`dynamic_batching`); one execution gets that batch, as its documentation advises. The parameters
`onnx` (path, absent for identity) and `threads` stand in the model's config.pbtxt.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        value = lambda key: config["parameters"].get(key, {}).get("string_value")
        self.inputs = [each["name"] for each in config["input"]]
        self.outputs = [each["name"] for each in config["output"]]
        self.session = None
        if value("onnx"):
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = int(value("threads"))
            options.inter_op_num_threads = 1
            options.add_session_config_entry("session.force_spinning_stop", "1")
            self.session = onnxruntime.InferenceSession(value("onnx"), options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        if self.session is None:
            return [self.answer([pb_utils.get_input_tensor_by_name(request, self.inputs[0]).as_numpy()]) for request in requests]
        columns = [[pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests] for name in self.inputs]
        feeds = {name: np.concatenate(column) if len(column) > 1 else column[0] for name, column in zip(self.inputs, columns)}
        results = self.session.run(self.outputs, feeds)
        ends = np.cumsum([len(rows) for rows in columns[0]])
        return [self.answer([result[end - len(rows) : end] for result in results]) for rows, end in zip(columns[0], ends)]

    def answer(self, arrays):
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays)])
