"""The foreign model `minilm` against ONNX Runtime in Python: minilm_reference.py HOST:PORT

Sentences, as token ids of many lengths, go through Weft, many at once and in batches of unequal shapes; every vector must be what
ONNX Runtime makes of the same ids alone, and sentences that mean the same must be closer to each other than to others.
`tests/scripts/models.sh` fetches the model and the environment this runs in.
"""

import concurrent.futures
import pathlib
import sys

import grpc
import numpy as np
import onnxruntime
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/minilm/1/model.onnx"
SENTENCES = 64
# ONNX Runtime sums in another order for another number of rows.
MOST_DIFFERENCE = 2e-5
CALLERS = 8
DEADLINE_S = 60.0
# "a man is playing a guitar", "a person plays the guitar", "the stock market fell sharply today", as the tokens of BERT.
ALIKE = [
    [101, 1037, 2158, 2003, 2652, 1037, 2858, 102],
    [101, 1037, 2711, 3248, 1996, 2858, 102],
    [101, 1996, 4518, 3006, 3062, 9249, 2651, 102],
]


def ask(stub, ids):
    """The vectors of one request's sentences, which are equally long."""
    request = pb.ModelInferRequest(model_name="minilm")
    for name, values in ("input_ids", ids), ("attention_mask", np.ones_like(ids)):
        request.inputs.add(name=name, datatype="INT64", shape=list(ids.shape))
        request.raw_input_contents.append(values.astype("<i8").tobytes())
    answer = stub.ModelInfer(request, timeout=DEADLINE_S)
    return np.frombuffer(answer.raw_output_contents[0], dtype="<f4").reshape(answer.outputs[0].shape)


def closeness(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def main(address):
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(MODEL))
    source = np.random.default_rng(7)
    requests = [np.asarray([ids], dtype=np.int64) for ids in ALIKE]
    requests += [source.integers(1000, 20000, (int(rows), int(length))) for rows, length in zip(
        source.integers(1, 9, SENTENCES), source.choice([4, 16, 16, 33, 128], SENTENCES))]
    expected = [session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0] for ids in requests]

    with grpc.insecure_channel(address) as channel, concurrent.futures.ThreadPoolExecutor(CALLERS) as callers:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = list(callers.map(lambda ids: ask(stub, ids), requests))

    difference = max(
        float(np.abs(one - other).max()) if one.shape == other.shape else float("inf") for one, other in zip(expected, answers)
    )
    guitar, same, stocks = (answer[0] for answer in answers[: len(ALIKE)])
    near, far = closeness(guitar, same), closeness(guitar, stocks)
    rows = sum(len(ids) for ids in requests)
    print(f"minilm: {rows} sentences in {len(requests)} requests, max difference {difference:.1e}; same meaning {near:.2f}, other {far:.2f}")
    return 0 if difference <= MOST_DIFFERENCE and near > 0.6 > 0.3 > far else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    sys.exit(main(sys.argv[1]))
