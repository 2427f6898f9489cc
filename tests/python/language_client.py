"""Triton's own Python client against a language model: language_client.py HOST:PORT MODEL"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from checks import PATIENCE, Checks

checks = Checks("language model")

PROMPT = "The capital of France is"


def text(name, value):
    given = triton.InferInput(name, [1], "BYTES")
    given.set_data_from_numpy(np.array([value], dtype=object))
    return given


def flag(name, value=True):
    given = triton.InferInput(name, [1], "BOOL")
    given.set_data_from_numpy(np.array([value], dtype=bool))
    return given


def settings(**values):
    return text("sampling_parameters", json.dumps(values))


def is_last(result):
    return result.get_response().parameters["triton_final_response"].bool_param


def said(result):
    return result.as_numpy("text_output")[0].decode()


class Stream:
    """One stream, with its answers by request."""

    def __init__(self, client, model):
        self.client, self.model, self.answers = client, model, queue.Queue()
        client.start_stream(lambda result, error: self.answers.put((result, error)), stream_timeout=PATIENCE)

    def ask(self, inputs, request_id="", **options):
        self.client.async_stream_infer(self.model, inputs, request_id=request_id, **options)

    def take(self):
        return self.answers.get(timeout=PATIENCE)

    def all_of_one(self):
        results = []
        while not results or not is_last(results[-1]):
            result, error = self.take()
            if error is not None:
                raise error
            results.append(result)
        return results


def described(client, model):
    checks.until(f"{model} is ready", lambda: client.is_model_ready(model, client_timeout=PATIENCE))
    config = client.get_model_config(model, client_timeout=PATIENCE).config
    checks.holds("config: decoupled", config.model_transaction_policy.decoupled)
    metadata = client.get_model_metadata(model, client_timeout=PATIENCE)
    inputs, outputs = ({port.name: port.datatype for port in ports} for ports in (metadata.inputs, metadata.outputs))
    checks.equal("metadata: text_input", inputs.get("text_input"), "BYTES")
    checks.equal("metadata: sampling_parameters", inputs.get("sampling_parameters"), "BYTES")
    checks.equal("metadata: text_output", outputs.get("text_output"), "BYTES")


def whole(client, model):
    inputs = [text("text_input", PROMPT), settings(max_tokens=8), flag("return_num_output_tokens"), flag("return_finish_reason")]
    result = client.infer(model, inputs, client_timeout=PATIENCE)
    checks.holds("unary: the prompt comes back first", said(result).startswith(PROMPT), said(result))
    checks.equal("unary: tokens", result.as_numpy("num_output_tokens").tolist(), [8])
    checks.equal("unary: reason", result.as_numpy("finish_reason").tolist(), [b"length"])
    inputs.append(flag("exclude_input_in_output"))
    again = client.infer(model, inputs, client_timeout=PATIENCE)
    checks.equal("unary: without the prompt, greedy again", PROMPT + said(again), said(result))
    return said(again)


def streamed(client, model, expected):
    stream = Stream(client, model)
    flags = ["num_output_tokens", "num_input_tokens", "finish_reason", "token_ids", "cumulative_logprob", "logprobs"]
    inputs = [text("text_input", PROMPT), flag("stream"), settings(max_tokens=8)]
    stream.ask(inputs + [flag(f"return_{name}") for name in flags], enable_empty_final_response=True)
    results = stream.all_of_one()
    checks.holds("stream: many responses", len(results) > 4, len(results))
    checks.equal("stream: the same text", "".join(map(said, results)), expected)
    counts = [int(result.as_numpy("num_output_tokens")[0]) for result in results]
    checks.equal("stream: tokens", sum(counts), 8)
    checks.equal("stream: ids", [len(result.as_numpy("token_ids")) for result in results], counts)
    checks.equal("stream: only the last is marked", [is_last(result) for result in results][:-1], [False] * (len(results) - 1))
    reasons = [result.as_numpy("finish_reason")[0] for result in results]
    checks.equal("stream: reasons", reasons, [b"None"] * (len(results) - 1) + [b"length"])
    sums = np.cumsum(np.concatenate([result.as_numpy("logprobs") for result in results]))
    checks.holds("stream: logprobs add up", abs(sums[-1] - results[-1].as_numpy("cumulative_logprob")[0]) < 1e-3)
    checks.holds("stream: a prompt has tokens", results[-1].as_numpy("num_input_tokens")[0] >= 5)

    stream.ask([text("text_input", PROMPT), flag("stream", False), flag("exclude_input_in_output"), settings(max_tokens=8)])
    results = stream.all_of_one()
    checks.equal("stream: the whole in one", [said(result) for result in results], [expected])

    drawn = []
    for _ in range(2):
        stream.ask([text("text_input", PROMPT)], parameters={"max_tokens": 8, "temperature": 0.8, "seed": 7})
        drawn.append("".join(map(said, stream.all_of_one())))
    checks.equal("stream: request parameters, and a seed repeats", drawn[0], drawn[1])
    # The file of this model has no template to lay a conversation out by, which is told and not guessed around.
    stream.ask([text("messages", json.dumps([{"role": "user", "content": "Say hello."}]))])
    _, error = stream.take()
    checks.holds("stream: no chat without a template", error is not None and "messages" in error.message(), error)
    client.stop_stream()


def mixed(client, model, expected):
    stream = Stream(client, model)
    for number in range(4):
        stream.ask([text("text_input", PROMPT), settings(max_tokens=8)], request_id=str(number))
    stream.ask([text("text_input", PROMPT), settings(max_token=8)], request_id="wrong")
    texts, last, errors, order = {}, set(), [], []
    while len(last) < 4 or not errors:
        result, error = stream.take()
        if error is not None:
            errors.append(error)
            continue
        request = result.get_response().id
        order.append(request)
        texts[request] = texts.get(request, "") + said(result)
        if is_last(result):
            last.add(request)
    # Sums of floats differ with what else is in the batch, so only the beginning is held to be the same.
    beginnings = {request: said[:4] for request, said in texts.items()}
    checks.equal("mixed: every request has its text", beginnings, {str(n): expected[:4] for n in range(4)})
    turns = sum(one != other for one, other in zip(order, order[1:]))
    checks.holds("mixed: they take turns", turns > 4, order)
    checks.holds("mixed: a refusal names the setting", "max_token" in errors[0].message(), errors[0].message())
    client.stop_stream()


def refused(client, model):
    for what, inputs, word in [
        ("a prompt longer than the context", [text("text_input", "word " * 20_000)], "text_input"),
        ("a bad temperature", [text("text_input", "a"), settings(temperature=-1)], "temperature"),
        ("a stream from a unary call", [text("text_input", "a"), flag("stream")], "stream"),
        ("no prompt", [settings(max_tokens=1)], "text_input"),
    ]:
        try:
            client.infer(model, inputs, client_timeout=PATIENCE)
            checks.holds(f"{what} is refused", False, "the call succeeded")
        except InferenceServerException as error:
            checks.equal(f"{what} is INVALID_ARGUMENT", error.status(), "StatusCode.INVALID_ARGUMENT")
            checks.holds(f"{what}: the message names {word}", word in error.message(), error.message())


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    model = sys.argv[2]
    with triton.InferenceServerClient(sys.argv[1]) as client:
        described(client, model)
        expected = whole(client, model)
        streamed(client, model, expected)
        mixed(client, model, expected)
        refused(client, model)
    checks.done()


main()
