"""onnxruntime without a server: bare_onnx.py MODEL.onnx THREADS FOLDER [OUTPUT], driven line by line.

    cases ROWS COUNT LENGTH  writes COUNT inputs of ROWS items (texts of LENGTH tokens) and their answers into FOLDER; prints what they are
    run ROWS MILLISECONDS    executes those inputs again and again for so long; prints how long each execution took

The servers are sent the same inputs, and what they answer is compared with these answers. Whether threads also spin between executions, as is
onnxruntime's default, is decided for each number of rows by what is faster: on a busy machine it is not.
"""

import json
import pathlib
import sys
import time

import numpy as np

from onnx_models import session

DATATYPES = {"tensor(float)": ("FP32", np.float32), "tensor(int64)": ("INT64", np.int64), "tensor(int32)": ("INT32", np.int32)}


def made(source, each, rows, length):
    """An input as models take it: a mask of ones, type ids of zeros, otherwise small numbers."""
    datatype = DATATYPES[each.type][1]
    shape = [rows, *(axis if isinstance(axis, int) else length for axis in each.shape[1:])]
    if "mask" in each.name:
        return np.ones(shape, datatype)
    if "type" in each.name:
        return np.zeros(shape, datatype)
    if datatype == np.float32:
        return source.random(shape, datatype)
    return source.integers(1, 250, shape, datatype)


def described(name, array):
    datatype = next(name for name, kind in DATATYPES.values() if kind == array.dtype)
    return {"name": name, "datatype": datatype, "shape": list(array.shape)}


class Loop:
    def __init__(self, model, threads, folder, output=None):
        self.sessions = [session(model, int(threads), always) for always in (True, False)]
        self.session = self.sessions[0]
        self.folder = pathlib.Path(folder)
        # What callers of such models want: the last output that is one row of numbers for each item.
        rows = [each for each in self.session.get_outputs() if len(each.shape) <= 2 and each.type == "tensor(float)"]
        self.output = output or rows[-1].name
        self.feeds = {}
        self.faster = {}

    def cases(self, rows, count, length):
        source, described_inputs = np.random.default_rng(rows), []
        self.feeds[rows] = []
        for at in range(count):
            feeds = {each.name: made(source, each, rows, length) for each in self.session.get_inputs()}
            (answer,) = self.session.run([self.output], feeds)
            described_inputs = [described(name, array) for name, array in feeds.items()]
            for name, array in feeds.items():
                (self.folder / f"{rows}-{at}-{name}").write_bytes(array.tobytes())
            (self.folder / f"{rows}-{at}-answer").write_bytes(answer.tobytes())
            self.feeds[rows].append(feeds)
        self.faster[rows] = min(self.sessions, key=self.time_of_one(rows))
        return {"inputs": described_inputs, "output": described(self.output, answer)}

    def time_of_one(self, rows):
        def least(session):
            times = []
            for _ in range(10):
                began = time.perf_counter_ns()
                session.run([self.output], self.feeds[rows][0])
                times.append(time.perf_counter_ns() - began)
            return sorted(times)[5]

        return least

    def run(self, rows, milliseconds):
        session = self.faster[rows]
        took, at = [], 0
        started = now = time.perf_counter_ns()
        while now < started + milliseconds * 1_000_000:
            session.run([self.output], self.feeds[rows][at % len(self.feeds[rows])])
            ended = time.perf_counter_ns()
            took.append((ended - now) // 1000)
            now, at = ended, at + 1
        return {"elapsed_us": (now - started) // 1000, "times_us": took}


def main():
    loop = Loop(*sys.argv[1:])
    for line in sys.stdin:
        command, *numbers = line.split()
        print(json.dumps(getattr(loop, command)(*map(int, numbers))), flush=True)


main()
