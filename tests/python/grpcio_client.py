"""Plain grpcio against a Weft server: grpcio_client.py HOST:PORT"""

import sys

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from checks import PATIENCE, Checks

checks = Checks("grpcio")

NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def health_messages():
    """The messages of grpc.health.v1, built here because their package is one more dependency."""
    file = descriptor_pb2.FileDescriptorProto(name="health.proto", package="grpc.health.v1", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    response = file.message_type.add(name="HealthCheckResponse")
    response.field.add(name="status", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    named = (pool.FindMessageTypeByName(f"grpc.health.v1.{name.name}") for name in file.message_type)
    return [message_factory.GetMessageClass(descriptor) for descriptor in named]


SERVING, SERVICE_UNKNOWN = 1, 3


def request(model, name, array):
    array = np.asarray(array)
    datatypes = {"uint32": "UINT32", "int64": "INT64", "uint8": "UINT8"}
    made = pb.ModelInferRequest(model_name=model)
    made.inputs.add(name=name, datatype=datatypes[array.dtype.name], shape=array.shape)
    made.raw_input_contents.append(array.tobytes())
    return made


def nap(milliseconds):
    return request("sleep", "MILLISECONDS", np.array([milliseconds], dtype=np.uint32))


def failure(what, code, call):
    try:
        call()
    except grpc.RpcError as error:
        checks.equal(f"{what} is {code.name}", error.code(), code)
        return error
    return checks.holds(f"{what} is {code.name}", False, "the call succeeded")


def deadlines(stub):
    failure("a deadline that passes", grpc.StatusCode.DEADLINE_EXCEEDED, lambda: stub.ModelInfer(nap(5_000), timeout=0.2))
    answer = stub.ModelInfer(nap(1), timeout=PATIENCE)
    checks.equal("a deadline that holds", np.frombuffer(answer.raw_output_contents[0], np.uint32).tolist(), [1])
    calls = stub.ModelStreamInfer(iter([nap(5_000)]), timeout=0.3)
    failure("a stream past its deadline", grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(calls))


def cancellation(stub):
    calls = [stub.ModelInfer.future(nap(20_000), timeout=PATIENCE) for _ in range(50)]
    for call in calls:
        call.cancel()
    codes = {call.code() for call in calls}
    checks.equal("50 cancelled calls", codes, {grpc.StatusCode.CANCELLED})
    stream = stub.ModelStreamInfer(iter([nap(20_000)]), timeout=PATIENCE)
    stream.cancel()
    failure("a cancelled stream", grpc.StatusCode.CANCELLED, lambda: list(stream))
    answer = stub.ModelInfer(nap(0), timeout=PATIENCE)
    checks.equal("the connection goes on", answer.model_name, "sleep")


def metadata(stub):
    one = request("identity", "INPUT", np.array([1], dtype=np.int64))
    good = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "vendor=1"),
            ("baggage", "tenant=a"), ("unrelated", "x" * 500)]
    answer, call = stub.ModelInfer.with_call(one, timeout=PATIENCE, metadata=good)
    checks.equal("a call with a trace", (answer.model_name, call.code()), ("identity", grpc.StatusCode.OK))
    for bad in ("", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff-" + "a" * 32 + "-" + "b" * 16 + "-01"):
        answer = stub.ModelInfer(one, timeout=PATIENCE, metadata=[("traceparent", bad)])
        checks.equal(f"a call with the trace {bad[:8]!r}...", answer.model_name, "identity")


def error_details(stub):
    unknown = request("nonesuch", "INPUT", np.array([1], dtype=np.int64))
    error = failure("an unknown model", grpc.StatusCode.NOT_FOUND, lambda: stub.ModelInfer(unknown, timeout=PATIENCE))
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    for part in (b"google.rpc.ErrorInfo", b"NOT_FOUND", b"weft"):
        checks.holds(f"its details hold {part.decode()}", part in details, details)
    checks.holds("its message names no path or address", "/" not in error.details(), error.details())


def sizes(address):
    with grpc.insecure_channel(address, options=NO_LIMIT) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        content = np.arange(16 << 20, dtype=np.uint8)
        answer = stub.ModelInfer(request("identity", "INPUT", content), timeout=PATIENCE)
        checks.holds("16 MiB go through and come back", answer.raw_output_contents[0] == content.tobytes())
        large = request("identity", "INPUT", np.zeros(65 << 20, dtype=np.uint8))
        failure("65 MiB", grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: stub.ModelInfer(large, timeout=PATIENCE))
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        many = pb.ModelInferRequest(model_name="identity")
        for _ in range(10_000):
            many.inputs.add(name="INPUT", datatype="INT64", shape=[0])
        error = failure("10,000 inputs", grpc.StatusCode.INVALID_ARGUMENT, lambda: stub.ModelInfer(many, timeout=PATIENCE))
        checks.holds("it names inputs", "inputs" in error.details(), error.details())
        checks.holds("the server lives on", stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE).live)


def concurrency(stub):
    calls = [stub.ModelInfer.future(request("identity", "INPUT", np.array([number], dtype=np.int64)), timeout=PATIENCE)
             for number in range(256)]
    found = [int(np.frombuffer(call.result().raw_output_contents[0], np.int64)[0]) for call in calls]
    checks.equal("256 calls at once each get their own answer", found, list(range(256)))


def health(channel):
    asked, answered = health_messages()
    options = {"request_serializer": asked.SerializeToString, "response_deserializer": answered.FromString}
    check = channel.unary_unary("/grpc.health.v1.Health/Check", **options)
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch", **options)
    for service in ("", "inference.GRPCInferenceService"):
        checks.equal(f"health of {service!r}", check(asked(service=service), timeout=PATIENCE).status, SERVING)
        stream = watch(asked(service=service), timeout=PATIENCE)
        checks.equal(f"health of {service!r}, watched", next(stream).status, SERVING)
        stream.cancel()
    failure("health of an unknown service", grpc.StatusCode.NOT_FOUND,
            lambda: check(asked(service="nonesuch"), timeout=PATIENCE))
    stream = watch(asked(service="nonesuch"), timeout=PATIENCE)
    checks.equal("health of an unknown service, watched", next(stream).status, SERVICE_UNKNOWN)
    stream.cancel()


def unknown_methods(channel):
    for method in ("/inference.GRPCInferenceService/NoSuch", "/no.such.Service/Method"):
        call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        failure(method, grpc.StatusCode.UNIMPLEMENTED, lambda call=call: call(b"", timeout=PATIENCE))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with grpc.insecure_channel(sys.argv[1]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        checks.holds("server is ready", stub.ServerReady(pb.ServerReadyRequest(), timeout=PATIENCE).ready)
        deadlines(stub)
        cancellation(stub)
        metadata(stub)
        error_details(stub)
        concurrency(stub)
        health(channel)
        unknown_methods(channel)
    sizes(sys.argv[1])
    checks.done()


main()
