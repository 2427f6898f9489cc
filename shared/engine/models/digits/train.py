"""Train the `digits` model and write `model.onnx` and `heldout.bin` beside this file.

The data is scikit-learn's bundled set of 1,797 handwritten digits, 8 by 8 pixels from 0 to 16. A fixed, stratified split
keeps 360 of them out of training. The network is small (64-128-10), so it is trained by scikit-learn and written as plain
ONNX operators; nothing of scikit-learn is needed to run it. See README.md for the formats.
"""

import pathlib

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = pathlib.Path(__file__).parent
HELD_OUT = 360
SPLIT_SEED = 2026
MODEL_SEED = 7
PIXEL_RANGE = 16.0
LEAST_ACCURACY = 0.97


def train(pixels, labels):
    """A classifier of pixels scaled to 0..1."""
    classifier = MLPClassifier(
        hidden_layer_sizes=(128,), alpha=1e-2, learning_rate_init=2e-3, max_iter=1000, random_state=MODEL_SEED
    )
    classifier.fit(pixels / PIXEL_RANGE, labels)
    return classifier


def to_onnx(classifier):
    """The network as ONNX over raw pixels: the first layer's weights carry the scaling."""
    (hidden, output), (hidden_bias, output_bias) = classifier.coefs_, classifier.intercepts_
    tensors = {
        "hidden.weight": hidden / PIXEL_RANGE,
        "hidden.bias": hidden_bias,
        "output.weight": output,
        "output.bias": output_bias,
    }
    nodes = [
        helper.make_node("Gemm", ["PIXELS", "hidden.weight", "hidden.bias"], ["hidden"], name="hidden"),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
        helper.make_node("Gemm", ["active", "output.weight", "output.bias"], ["logits"], name="output"),
        helper.make_node("Softmax", ["logits"], ["PROBABILITIES"], name="softmax", axis=1),
        helper.make_node("ArgMax", ["logits"], ["LABEL"], name="label", axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("PIXELS", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("PROBABILITIES", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("LABEL", TensorProto.INT64, ["batch"]),
        ],
        [numpy_helper.from_array(value.astype(numpy.float32), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, producer_name="weft", opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def main():
    pixels, labels = load_digits(return_X_y=True)
    training, heldout, training_labels, heldout_labels = train_test_split(
        pixels, labels, test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=labels
    )
    model = to_onnx(train(training, training_labels))
    encoded = model.SerializeToString(deterministic=True)
    (HERE / "model.onnx").write_bytes(encoded)

    # The reference is another runtime's answer to the very file that Weft serves.
    session = onnxruntime.InferenceSession(encoded)
    (answers,) = session.run(["LABEL"], {"PIXELS": heldout.astype(numpy.float32)})
    records = numpy.column_stack([heldout, heldout_labels, answers]).astype(numpy.uint8)
    (HERE / "heldout.bin").write_bytes(records.tobytes())

    correct = int((answers == heldout_labels).sum())
    print(f"trained on {len(training)}, {correct} of {len(heldout)} held-out images right ({correct / len(heldout):.2%})")
    print(f"model.onnx {len(encoded)} bytes, heldout.bin {records.nbytes} bytes")
    if correct < LEAST_ACCURACY * len(heldout):
        raise SystemExit(f"accuracy is below {LEAST_ACCURACY:.0%}")


if __name__ == "__main__":
    main()
