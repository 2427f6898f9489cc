"""Triton's own Python client against a Weft server: triton_client.py HOST:PORT"""

import asyncio
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from checks import DIGITS, LABELS, PATIENCE, Checks

checks = Checks("tritonclient")


def tensor(name, array, datatype=None, shape=None):
    """An input in raw form; datatype and shape can claim something else than the array is."""
    array = np.asarray(array)
    given = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array)
    if datatype is not None:
        given._input.datatype = datatype
    if shape is not None:
        given.set_shape(shape)
    return given


def typed(name, datatype, shape, field, values):
    """An input in typed form, which the client library itself never sends over gRPC."""
    given = triton.InferInput(name, shape, datatype)
    getattr(given._input.contents, field).extend(values)
    return given


def refused(what, code, words, call):
    try:
        call()
    except InferenceServerException as error:
        checks.equal(f"{what} is {code}", error.status(), f"StatusCode.{code}")
        missing = [word for word in words if word not in error.message()]
        if words:
            checks.holds(f"{what}: the message names {', '.join(words)}", not missing, error.message())
        return
    checks.holds(f"{what} is {code}", False, "the call succeeded")


def server(client):
    checks.holds("server is live", client.is_server_live(client_timeout=PATIENCE))
    checks.holds("server is ready", client.is_server_ready(client_timeout=PATIENCE))
    metadata = client.get_server_metadata(client_timeout=PATIENCE)
    checks.equal("server name", metadata.name, "weft")
    checks.holds("server has a version", metadata.version)
    for extension in ("model_repository", "model_configuration", "statistics"):
        checks.holds(f"extension {extension}", extension in metadata.extensions, metadata.extensions)


def models(client):
    for name in ("digits", "identity", "sleep", "fail"):
        checks.until(f"{name} is ready", lambda name=name: client.is_model_ready(name, client_timeout=PATIENCE))
    checks.holds("digits version 1 is ready", client.is_model_ready("digits", "1", client_timeout=PATIENCE))
    checks.holds("digits version 999 is not", not client.is_model_ready("digits", "999", client_timeout=PATIENCE))
    checks.holds("an unknown model is not", not client.is_model_ready("nonesuch", client_timeout=PATIENCE))

    metadata = client.get_model_metadata("digits", client_timeout=PATIENCE)
    checks.equal("digits metadata: name", metadata.name, "digits")
    checks.equal("digits metadata: versions", list(metadata.versions), ["1"])
    pixels = [(port.datatype, list(port.shape)) for port in metadata.inputs]
    checks.equal("digits metadata: one input", pixels, [("FP32", [-1, 64])])
    outputs = {port.name: (port.datatype, list(port.shape)) for port in metadata.outputs}
    wanted = {"PROBABILITIES": ("FP32", [-1, 10]), "LABEL": ("INT64", [-1])}
    checks.equal("digits metadata: outputs", outputs, wanted)

    config = client.get_model_config("digits", client_timeout=PATIENCE).config
    checks.equal("digits config: name", config.name, "digits")
    checks.equal("digits config: input", [port.name for port in config.input], [metadata.inputs[0].name])
    checks.equal("digits config: outputs", {port.name for port in config.output}, set(outputs))
    refused("metadata of an unknown model", "NOT_FOUND", [], lambda: client.get_model_metadata("nonesuch"))
    refused("config of an unknown model", "NOT_FOUND", [], lambda: client.get_model_config("nonesuch"))
    return metadata.inputs[0].name


def digits(client, pixels):
    images = np.array(DIGITS, dtype=np.float32)

    def labels(what, result):
        checks.equal(f"{what}: labels", result.as_numpy("LABEL").tolist(), LABELS)
        probabilities = result.as_numpy("PROBABILITIES")
        checks.equal(f"{what}: probabilities per class", probabilities.shape, (2, 10))
        checks.holds(f"{what}: probabilities sum to one", np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-4))

    result = client.infer("digits", [tensor(pixels, images)], request_id="seven", client_timeout=PATIENCE)
    labels("digits, raw", result)
    response = result.get_response()
    checks.equal("digits: id comes back", response.id, "seven")
    checks.equal("digits: model and version are named", (response.model_name, response.model_version), ("digits", "1"))
    contents = typed(pixels, "FP32", [2, 64], "fp32_contents", images.flatten().tolist())
    labels("digits, typed", client.infer("digits", [contents], client_timeout=PATIENCE))
    wanted = [triton.InferRequestedOutput("LABEL")]
    result = client.infer("digits", [tensor(pixels, images)], outputs=wanted, client_timeout=PATIENCE)
    checks.equal("digits: only what is asked for", [port.name for port in result.get_response().outputs], ["LABEL"])
    result = client.infer("digits", [tensor(pixels, images)], model_version="1", client_timeout=PATIENCE)
    checks.equal("digits by version", result.as_numpy("LABEL").tolist(), LABELS)


def identity(client):
    arrays = [np.array([[0, 1], [1, 0]], dtype=bool), np.zeros((0, 3), dtype=np.float32), np.float64([[[1e300]]])]
    for name in ("int8", "int16", "int32", "int64"):
        arrays.append(np.array([np.iinfo(name).min, -1, np.iinfo(name).max], dtype=name))
    for name in ("uint8", "uint16", "uint32", "uint64"):
        arrays.append(np.array([[0, np.iinfo(name).max]], dtype=name))
    for name in ("float16", "float32", "float64"):
        arrays.append(np.array([-0.0, 1.5, np.inf], dtype=name))
    arrays.append(np.array([["", "text"], ["gr\u00fc\u00df", "a" * 1000]], dtype=object))
    arrays.append(np.array([b"\x00\xff\xfe", b""], dtype=object))
    for array in arrays:
        result = client.infer("identity", [tensor("INPUT", array)], client_timeout=PATIENCE).as_numpy("OUTPUT")
        wanted = array
        if array.dtype == object:
            to_bytes = np.vectorize(lambda item: item if isinstance(item, bytes) else item.encode(), otypes=[object])
            wanted = to_bytes(array)
        same = result.shape == wanted.shape and (result == wanted).all()
        checks.holds(f"identity of {np_to_triton_dtype(array.dtype)} {list(array.shape)}", same, result)
    for datatype, field, values in [
        ("BOOL", "bool_contents", [True, False]), ("INT8", "int_contents", [-128, 127]),
        ("INT32", "int_contents", [-1, 2]), ("INT64", "int64_contents", [-1, 2**62]),
        ("UINT16", "uint_contents", [0, 65535]), ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [0.5, -1.0]), ("FP64", "fp64_contents", [0.5, -1.0]),
        ("BYTES", "bytes_contents", [b"\x00", b""]),
    ]:
        given = typed("INPUT", datatype, [2], field, values)
        result = client.infer("identity", [given], client_timeout=PATIENCE).as_numpy("OUTPUT").tolist()
        checks.equal(f"identity of typed {datatype}", result, values)


def errors(client, pixels):
    image = np.zeros((1, 64), dtype=np.float32)

    def infer(model, *inputs, **options):
        return lambda: client.infer(model, list(inputs), client_timeout=PATIENCE, **options)

    refused("an unknown model", "NOT_FOUND", ["nonesuch"], infer("nonesuch", tensor(pixels, image)))
    refused("an unknown version", "NOT_FOUND", [], infer("digits", tensor(pixels, image), model_version="999"))
    refused("a version that is no number", "INVALID_ARGUMENT", ["model_version"],
            infer("digits", tensor(pixels, image), model_version="one"))
    refused("a name that climbs", "INVALID_ARGUMENT", ["model_name"], infer("../digits", tensor(pixels, image)))
    refused("a wrong shape", "INVALID_ARGUMENT", ["inputs[0].shape"],
            infer("digits", tensor(pixels, np.zeros((1, 63), dtype=np.float32))))
    refused("a negative dimension", "INVALID_ARGUMENT", ["inputs[0].shape"],
            infer("digits", tensor(pixels, image, shape=[-1, 64])))
    refused("a wrong type", "INVALID_ARGUMENT", ["inputs[0].datatype"],
            infer("digits", tensor(pixels, np.zeros((1, 64), dtype=np.int32))))
    refused("a type that does not exist", "INVALID_ARGUMENT", ["inputs[0].datatype"],
            infer("identity", tensor("INPUT", image, datatype="FP31")))
    refused("too few bytes", "INVALID_ARGUMENT", ["raw_input_contents[0]"],
            infer("digits", tensor(pixels, image, shape=[2, 64])))
    refused("a claim of a tebibyte", "INVALID_ARGUMENT", ["raw_input_contents[0]"],
            infer("identity", tensor("INPUT", image, shape=[1 << 38])))
    refused("an unknown input", "INVALID_ARGUMENT", ["inputs[0].name"], infer("digits", tensor("NONESUCH", image)))
    refused("no input", "INVALID_ARGUMENT", ["inputs"], infer("digits"))
    refused("an unknown output", "INVALID_ARGUMENT", ["outputs[0].name"],
            infer("digits", tensor(pixels, image), outputs=[triton.InferRequestedOutput("NONESUCH")]))
    refused("shared memory", "UNIMPLEMENTED", [], lambda: client.register_system_shared_memory("region", "/key", 64))
    message = tensor("MESSAGE", np.array([b"as asked"], dtype=object))
    refused("a model that fails", "INTERNAL", ["as asked"], infer("fail", message))


def deadlines(client):
    nap = tensor("MILLISECONDS", np.array([5_000], dtype=np.uint32))
    refused("the client's deadline", "DEADLINE_EXCEEDED", [],
            lambda: client.infer("sleep", [nap], client_timeout=0.2))
    refused("the request's timeout", "DEADLINE_EXCEEDED", [],
            lambda: client.infer("sleep", [nap], timeout=200_000, client_timeout=PATIENCE))
    short = tensor("MILLISECONDS", np.array([1], dtype=np.uint32))
    result = client.infer("sleep", [short], client_timeout=PATIENCE)
    checks.equal("a nap that fits", result.as_numpy("SLEPT_MS").tolist(), [1])


def streams(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), stream_timeout=PATIENCE)
    for number in range(8):
        given = tensor("INPUT", np.array([number], dtype=np.int64))
        client.async_stream_infer("identity", [given], request_id=str(number))
    found = []
    for _ in range(8):
        result, error = answers.get(timeout=PATIENCE)
        checks.holds("the stream answers", error is None, error)
        found.append((result.get_response().id, result.as_numpy("OUTPUT").tolist()))
    checks.equal("stream: in order", found, [(str(number), [number]) for number in range(8)])
    client.async_stream_infer("nonesuch", [tensor("INPUT", np.array([1], dtype=np.int64))])
    result, error = answers.get(timeout=PATIENCE)
    checks.holds("stream: an error is an answer", result is None and error is not None, result)
    client.async_stream_infer("identity", [tensor("INPUT", np.array([9], dtype=np.int64))], request_id="9")
    result, error = answers.get(timeout=PATIENCE)
    checks.holds("stream: it goes on after an error", error is None and result.get_response().id == "9", error)
    client.stop_stream()


def repository(client, pixels):
    def states():
        index = client.get_model_repository_index(client_timeout=PATIENCE)
        return {(model.name, model.version): model.state for model in index.models}

    checks.equal("repository index: digits", states().get(("digits", "1")), "READY")
    client.unload_model("digits", client_timeout=PATIENCE)
    checks.until("digits is unloaded", lambda: not client.is_model_ready("digits", client_timeout=PATIENCE))
    checks.holds("repository index: digits is not ready", states().get(("digits", "1")) != "READY")
    client.load_model("digits", client_timeout=PATIENCE)
    checks.until("digits is loaded again", lambda: client.is_model_ready("digits", client_timeout=PATIENCE))
    result = client.infer("digits", [tensor(pixels, np.array(DIGITS, dtype=np.float32))], client_timeout=PATIENCE)
    checks.equal("digits answers again", result.as_numpy("LABEL").tolist(), LABELS)
    refused("loading an unknown model", "NOT_FOUND", ["nonesuch"],
            lambda: client.load_model("nonesuch", client_timeout=PATIENCE))


def statistics(client):
    def counts():
        found = client.get_inference_statistics("identity", client_timeout=PATIENCE).model_stats
        return sum(model.inference_count for model in found), sum(model.inference_stats.success.count for model in found)

    before = counts()
    for _ in range(3):
        client.infer("identity", [tensor("INPUT", np.array([1], dtype=np.int32))], client_timeout=PATIENCE)
    after = counts()
    checks.equal("statistics count inferences", tuple(b - a for a, b in zip(before, after)), (3, 3))
    everything = client.get_inference_statistics(client_timeout=PATIENCE).model_stats
    checks.holds("statistics of all models", {"digits", "identity"} <= {model.name for model in everything})


async def asynchronous(address):
    async with triton_aio.InferenceServerClient(address) as client:
        checks.holds("asyncio: server is ready", await client.is_server_ready(client_timeout=PATIENCE))
        given = [tensor("INPUT", np.array([number], dtype=np.int64)) for number in range(32)]
        calls = [client.infer("identity", [one], client_timeout=PATIENCE) for one in given]
        results = [result.as_numpy("OUTPUT").tolist() for result in await asyncio.gather(*calls)]
        checks.equal("asyncio: 32 calls at once", results, [[number] for number in range(32)])

        async def requests():
            for number in range(4):
                yield {"model_name": "identity", "inputs": [given[number]], "request_id": str(number)}

        found = [response.get_response().id
                 async for response, error in client.stream_infer(requests(), stream_timeout=PATIENCE) if error is None]
        checks.equal("asyncio: stream in order", found, ["0", "1", "2", "3"])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with triton.InferenceServerClient(sys.argv[1]) as client:
        server(client)
        pixels = models(client)
        digits(client, pixels)
        identity(client)
        errors(client, pixels)
        deadlines(client)
        streams(client)
        repository(client, pixels)
        statistics(client)
    asyncio.run(asynchronous(sys.argv[1]))
    checks.done()


main()
