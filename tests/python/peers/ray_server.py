"""Ray Serve's side: ray_server.py PORT HTTP_PORT FOLDER. One deployment speaks the Open Inference Protocol through Ray's gRPC proxy.

Models are batched with `serve.batch`, as its documentation advises; identity is answered as it comes. Ends with SIGTERM.
"""

import signal
import sys
import threading

import numpy as np
import ray
from ray import serve
from ray.serve.config import gRPCOptions
from tritonclient.grpc import service_pb2 as pb

from onnx_models import TYPES, Served, described

# As many calls as any cell keeps under way.
MOST_CALLS = 256
MOST_ROWS = 64
# What waits is batched, and nothing waits for more to come: alone, a call is not held up.
WAIT_S = 0.0


@serve.deployment(max_ongoing_requests=MOST_CALLS, num_replicas=1, ray_actor_options={"num_cpus": 0})
class Inference:
    def __init__(self):
        self.models = {name: Served(name) for name in described()["models"]}

    async def ModelReady(self, request):
        return pb.ModelReadyResponse(ready=request.name in self.models)

    async def ModelInfer(self, request):
        served = self.models[request.model_name]
        feeds = {
            each.name: np.frombuffer(raw, TYPES[each.datatype]).reshape(each.shape)
            for each, raw in zip(request.inputs, request.raw_input_contents)
        }
        results = served.run(feeds) if served.session is None else await self.batched((served, feeds))
        answer = pb.ModelInferResponse(model_name=served.name, id=request.id)
        for name, array in results.items():
            answer.outputs.add(name=name, datatype=served.outputs[name], shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer

    @serve.batch(max_batch_size=MOST_ROWS, batch_wait_timeout_s=WAIT_S, max_concurrent_batches=1)
    async def batched(self, calls):
        # Calls of one cell are of one model and one shape but for their rows.
        served = calls[0][0]
        feeds = {name: np.concatenate([feeds[name] for _, feeds in calls]) for name in served.inputs}
        results = served.run(feeds)
        ends = np.cumsum([len(next(iter(feeds.values()))) for _, feeds in calls])
        starts = [0, *ends[:-1]]
        return [{name: array[start:end] for name, array in results.items()} for start, end in zip(starts, ends)]


def main():
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    port, http_port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    ray.init(include_dashboard=False, num_cpus=described()["threads"], log_to_driver=False, configure_logging=False, _temp_dir=folder)
    servicer = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"
    serve.start(
        proxy_location="HeadOnly",
        # Without HTTP there is no proxy at all; nobody calls it.
        http_options={"host": "127.0.0.1", "port": http_port},
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[servicer]),
    )
    serve.run(Inference.bind(), name="inference", route_prefix="/inference")
    stop.wait()
    serve.shutdown()
    ray.shutdown()


main()
