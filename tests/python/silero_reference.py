"""The foreign model `silero_vad` against ONNX Runtime in Python: silero_reference.py HOST:PORT

Several sounds at once, each a sequence of pieces whose state Weft keeps: every probability must be what ONNX Runtime answers for that
sound alone, its state handed from piece to piece. The sounds' first pieces are sent at once, then their second ones, so that a state in
the wrong place would show. `tests/scripts/models.sh` fetches the model and the environment this runs in.
"""

import concurrent.futures
import pathlib
import sys

import grpc
import numpy as np
import onnxruntime
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/silero_vad/1/model.onnx"
RATE = 16000
# A piece, and what the model wants to hear again of the one before.
PIECE, AGAIN = 512, 64
PIECES, SOUNDS = 40, 4
MOST_DIFFERENCE = 1e-5
DEADLINE_S = 60.0


def sound(number):
    """Something with the rhythm and the tones of a voice, and pauses."""
    time = np.arange(PIECE * PIECES) / RATE
    source = np.random.default_rng(number)
    voice = sum(np.sin(2 * np.pi * (110 + 15 * number) * tone * time) / tone for tone in range(1, 20))
    loudness = np.clip(np.sin(2 * np.pi * (1.5 + number) * time), 0, None)
    return (0.1 * voice * loudness + 0.01 * source.standard_normal(len(time))).astype(np.float32)


def pieces(samples):
    padded = np.concatenate([np.zeros(AGAIN, np.float32), samples])
    return [padded[at : at + AGAIN + PIECE][None, :] for at in range(0, PIECE * PIECES, PIECE)]


def alone(session, samples):
    state, answers = np.zeros((2, 1, 128), np.float32), []
    for piece in pieces(samples):
        answer, state = session.run(["output", "stateN"], {"input": piece, "state": state, "sr": np.array(RATE, np.int64)})
        answers.append(float(answer[0, 0]))
    return answers


def ask(stub, number, piece, at):
    request = pb.ModelInferRequest(model_name="silero_vad")
    request.parameters["sequence_id"].int64_param = 1 + number
    request.parameters["sequence_start"].bool_param = at == 0
    request.parameters["sequence_end"].bool_param = at == PIECES - 1
    request.inputs.add(name="input", datatype="FP32", shape=list(piece.shape))
    request.raw_input_contents.append(piece.astype("<f4").tobytes())
    request.inputs.add(name="sr", datatype="INT64", shape=[])
    request.raw_input_contents.append(np.asarray(RATE, dtype="<i8").tobytes())
    answer = stub.ModelInfer(request, timeout=DEADLINE_S)
    names = [output.name for output in answer.outputs]
    return float(np.frombuffer(answer.raw_output_contents[names.index("output")], dtype="<f4")[0])


def main(address):
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(MODEL))
    sounds = [sound(number) for number in range(SOUNDS)]
    expected = [alone(session, samples) for samples in sounds]
    cut = [pieces(samples) for samples in sounds]
    with grpc.insecure_channel(address) as channel, concurrent.futures.ThreadPoolExecutor(SOUNDS) as callers:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = [
            list(callers.map(lambda number: ask(stub, number, cut[number][at], at), range(SOUNDS))) for at in range(PIECES)
        ]
    expected, answers = np.asarray(expected), np.asarray(answers).T
    difference = float(np.abs(expected - answers).max())
    # What a mistaken state, or somebody else's, would have to come within.
    apart = min(float(np.abs(expected[one] - expected[other]).max()) for one in range(SOUNDS) for other in range(one))
    print(f"silero_vad: {SOUNDS} sounds of {PIECES} pieces at once, max difference {difference:.1e}, sounds apart by {apart:.2f}")
    return 0 if difference <= MOST_DIFFERENCE and apart > 0.05 else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    sys.exit(main(sys.argv[1]))
