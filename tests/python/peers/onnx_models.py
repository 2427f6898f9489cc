"""The models that MLServer and Ray Serve serve beside Weft: identity, or an ONNX file with onnxruntime.

WEFT_PEER_MODELS names a JSON file: {"threads": 2, "models": {"digits": {"onnx": PATH or null, "inputs": {"PIXELS": "FP32"},
"outputs": {"LABEL": "INT64"}}, ...}}. It is the one description from which every peer of a run is made.
"""

import json
import os

import numpy as np

TYPES = {"FP32": np.float32, "INT64": np.int64, "INT32": np.int32}


def described():
    with open(os.environ["WEFT_PEER_MODELS"], encoding="utf-8") as file:
        return json.load(file)


class Served:
    """A model by its name; `run` takes and gives arrays by name, one row per item."""

    def __init__(self, name):
        everything = described()
        self.name = name
        self.inputs = everything["models"][name]["inputs"]
        self.outputs = everything["models"][name]["outputs"]
        path = everything["models"][name]["onnx"]
        self.session = session(path, everything["threads"]) if path else None

    def run(self, feeds):
        if self.session is None:
            return dict(zip(self.outputs, feeds.values()))
        return dict(zip(self.outputs, self.session.run(list(self.outputs), feeds)))


def session(path, threads, always_spinning=False):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # On a machine that servers and callers share, threads that spin between executions take the time of those that work.
    options.add_session_config_entry("session.force_spinning_stop", "0" if always_spinning else "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
