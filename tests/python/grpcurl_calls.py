"""grpcurl, without any proto file, against a Weft server: grpcurl_calls.py ROUTER [METRICS]

METRICS is the address of the metrics service where that is another one."""

import base64
import json
import os
import struct
import subprocess
import sys

from checks import DIGITS, LABELS, PATIENCE, Checks

checks = Checks("grpcurl")

# It lies beside the environment that this script runs in: tests/scripts/tools.sh put both there.
GRPCURL = os.path.join(os.path.dirname(sys.prefix), "bin", "grpcurl")

# grpcurl ends with 64 plus the status code.
OK, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION = 0, 67, 69, 70, 73

# What an attempt of a job's step tells.
SEEN = ("startedAt", "endedAt", "outcome", "place", "budget")


def grpcurl(address, *args, data=None, headers=()):
    """Exit code, standard output, standard error."""
    flags = ["-plaintext", "-max-time", str(int(PATIENCE))]
    if data is not None:
        flags += ["-d", json.dumps(data)]
    flags += [flag for header in headers for flag in ("-H", header)]
    done = subprocess.run([GRPCURL, *flags, address, *args], capture_output=True, text=True, timeout=2 * PATIENCE)
    return done.returncode, done.stdout, done.stderr


def call(address, method, data=None, headers=()):
    code, out, err = grpcurl(address, method, data=data or {}, headers=headers)
    checks.holds(method, code == OK, err)
    return json.loads(out)


def fails(what, address, method, data, code, word):
    found, _, err = grpcurl(address, method, data=data)
    checks.equal(f"{what} fails with exit code {code}", found, code)
    checks.holds(f"{what}: the error names {word}", word in err, err)


def infer(model, name, datatype, shape, contents):
    tensor = {"name": name, "datatype": datatype, "shape": shape, "contents": contents}
    return {"model_name": model, "inputs": [tensor]}


def raw(answer, name):
    """The named output's bytes. grpcurl writes the field's JSON name where the reflected descriptor has one."""
    position = [output["name"] for output in answer["outputs"]].index(name)
    contents = answer.get("rawOutputContents") or answer["raw_output_contents"]
    return base64.b64decode(contents[position])


def reflection(address):
    code, out, err = grpcurl(address, "list")
    checks.equal(f"list ({err.strip()})", code, OK)
    services = set(out.split())
    for service in ("inference.GRPCInferenceService", "grpc.health.v1.Health", "weft.router.v1.Router",
                    "weft.control.v1.Models", "weft.control.v1.Routes", "weft.control.v1.Workers"):
        checks.holds(f"list names {service}", service in services, out)
        code, out_, err = grpcurl(address, "describe", service)
        checks.holds(f"describe {service}", code == OK and "rpc " in out_, err)
    for message, field in (("inference.ModelInferRequest", "raw_input_contents"), ("weft.control.v1.Model", "replicas")):
        code, out, err = grpcurl(address, "describe", message)
        checks.holds(f"describe {message}", code == OK and field in out, err)


def health(address):
    checks.equal("health of all", call(address, "grpc.health.v1.Health/Check"), {"status": "SERVING"})
    listed = call(address, "grpc.health.v1.Health/List")["statuses"]
    checks.holds("health list names the server and its services", {"", "inference.GRPCInferenceService"} <= set(listed), listed)


def inference(address):
    method = "inference.GRPCInferenceService/ModelInfer"
    answer = call(address, method, infer("identity", "INPUT", "INT32", [3], {"int_contents": [1, -2, 3]}))
    checks.equal("identity", struct.unpack("<3i", raw(answer, "OUTPUT")), (1, -2, 3))
    pixels = call(address, "inference.GRPCInferenceService/ModelMetadata", {"name": "digits"})["inputs"][0]["name"]
    images = [value for image in DIGITS for value in image]
    answer = call(address, method, infer("digits", pixels, "FP32", [2, 64], {"fp32_contents": images}))
    checks.equal("digits", list(struct.unpack("<2q", raw(answer, "LABEL"))), LABELS)
    wrong = infer("digits", pixels, "FP32", [1, 63], {"fp32_contents": [0] * 63})
    fails("a wrong shape", address, method, wrong, INVALID_ARGUMENT, "inputs[0].shape")
    fails("an unknown model", address, method, infer("nonesuch", "INPUT", "INT32", [1], {"int_contents": [1]}), NOT_FOUND, "nonesuch")
    return pixels


def models(address):
    def identity():
        return call(address, "weft.control.v1.Models/GetModel", {"name": "identity"})["model"]

    listed = call(address, "weft.control.v1.Models/ListModels")["models"]
    names = {model["model"]["name"] for model in listed}
    checks.holds("models are listed", {"digits", "identity", "sleep", "fail"} <= names, names)
    applied = call(address, "weft.control.v1.Models/ApplyModel", {"model": {"name": "identity", "replicas": 1}})["model"]
    checks.equal("an applied model", (applied["applied"], applied["model"]["replicas"]), (True, 1))
    checks.holds("it stays applied", identity()["applied"])
    ready = checks.until("it has a ready replica", lambda: [
        replica for replica in identity().get("replicas", []) if replica["state"] == "REPLICA_STATE_READY"])
    checks.holds("the replica names its worker", ready[0]["worker"], ready)
    call(address, "weft.control.v1.Models/DeleteModel", {"name": "identity"})
    checks.until("it is the scheduler's default again", lambda: not identity().get("applied", False))
    fails("an unknown model", address, "weft.control.v1.Models/GetModel", {"name": "nonesuch"}, NOT_FOUND, "nonesuch")
    climbing = {"model": {"name": "../identity", "replicas": 1}}
    fails("a name that climbs", address, "weft.control.v1.Models/ApplyModel", climbing, INVALID_ARGUMENT, "name")
    fails("no model", address, "weft.control.v1.Models/ApplyModel", {}, INVALID_ARGUMENT, "model")


def routes(address, pixels):
    request = infer("numbers", pixels, "FP32", [1, 64], {"fp32_contents": DIGITS[0]})

    def outcome():
        return grpcurl(address, "inference.GRPCInferenceService/ModelInfer", data=request)[0]

    checks.equal("a name without a route", outcome(), NOT_FOUND)
    route = {"name": "numbers", "targets": [{"model": "digits", "weight": 1}]}
    applied = call(address, "weft.control.v1.Routes/ApplyRoute", {"route": route})["route"]
    checks.equal("an applied route", (applied["name"], applied["targets"]), ("numbers", route["targets"]))
    checks.until("calls follow the route", lambda: outcome() == OK)
    checks.equal("it is read back", call(address, "weft.control.v1.Routes/GetRoute", {"name": "numbers"})["route"], applied)
    listed = call(address, "weft.control.v1.Routes/ListRoutes").get("routes", [])
    checks.holds("it is listed", applied in listed, listed)
    call(address, "weft.control.v1.Routes/DeleteRoute", {"name": "numbers"})
    checks.until("calls stop following it", lambda: outcome() == NOT_FOUND)
    fails("a deleted route", address, "weft.control.v1.Routes/GetRoute", {"name": "numbers"}, NOT_FOUND, "numbers")
    empty = {"route": {"name": "numbers", "targets": []}}
    fails("a route to nowhere", address, "weft.control.v1.Routes/ApplyRoute", empty, INVALID_ARGUMENT, "targets")


def splits(address):
    apply, explain = "weft.control.v1.Routes/ApplyRoute", "weft.router.v1.Router/Explain"

    def route(match=None, **rules):
        matches = [match or {"key": "x-canary", "exact": "yes"}]
        targets = [{"model": "digits", "weight": 9}, {"model": "identity", "weight": 1, "matches": matches}]
        return {"route": {"name": "numbers", "targets": targets, **rules}}

    whole = route(sticky={"metadata": "user-id"}, shadow={"model": "identity", "percent": 5})
    checks.equal("a route with every rule", call(address, apply, whole)["route"], whole["route"])

    def told(*headers):
        return call(address, explain, {"request": {"model_name": "numbers"}}, headers)

    checks.until("the router has it", lambda: "shadow" in told().get("route", {}))
    rules = {"RULE_MATCH": ["x-canary: yes"], "RULE_STICKY": ["user-id: 7"], "RULE_WEIGHT": []}
    for rule, headers in rules.items():
        answer = told(*headers)
        taken = [target["model"] for target in answer["route"]["targets"] if target.get("taken")]
        checks.equal(f"{rule} takes", (answer["route"]["rule"], taken), (rule, [answer["model"]]))
        checks.equal(f"{rule} is sent", answer["outcome"], "OUTCOME_SENT")
    checks.equal("a marked call takes the canary", told("x-canary: yes")["model"], "identity")
    fails("a key of gRPC's", address, apply, route({"key": "grpc-timeout", "present": True}), INVALID_ARGUMENT,
          "route.targets[1].matches[0].key")
    fails("a sticky key without a source", address, apply, route(sticky={}), INVALID_ARGUMENT, "route.sticky")
    shadow = {"model": "identity", "percent": 101}
    fails("more than every call", address, apply, route(shadow=shadow), INVALID_ARGUMENT, "route.shadow.percent")
    call(address, "weft.control.v1.Routes/DeleteRoute", {"name": "numbers"})


def jobs(address):
    service = "weft.jobs.v1.Jobs"
    data = {"datatype": "INT32", "shape": [2], "data": "$input.numbers"}
    steps = [
        {"name": "copy", "action": {"infer": {"model": "identity", "inputs": {"INPUT": data}}}},
        {"name": "approval", "needs": ["copy"], "action": {"wait": {"name": "approved"}}},
        {"name": "both", "needs": ["approval"], "action": {"compute": {"value": ["$steps.copy.outputs", "$steps.approval"]}}},
    ]
    request = {"definition": {"name": "approved", "steps": steps, "output": "$steps.both"},
               "input": {"numbers": [3, 4]}, "key": "grpcurl"}
    job = call(address, f"{service}/SubmitJob", request)["job"]
    checks.equal("the same submission is the same job", call(address, f"{service}/SubmitJob", request)["job"]["id"], job["id"])
    fails("another job under the key", address, f"{service}/SubmitJob", {**request, "input": {}}, ALREADY_EXISTS, "key")
    circle = {"name": "circle", "steps": [{**steps[1], "needs": ["approval"]}]}
    fails("a circle", address, f"{service}/SubmitJob", {"definition": circle}, INVALID_ARGUMENT, "definition.steps[0].needs")

    def get(**more):
        return call(address, f"{service}/GetJob", {"id": job["id"], **more})

    def state(step):
        return [found["state"] for found in get()["job"]["steps"] if found["name"] == step][0]

    def verb(verb):
        call(address, f"{service}/ResolveJob", {"id": job["id"], "verb": verb, "reason": "a look"})

    checks.until("it waits for its signal", lambda: state("approval") == "STEP_STATE_RUNNING")
    verb("VERB_PAUSE")
    checks.holds("it is paused", get()["job"]["paused"])
    verb("VERB_RESUME")
    signal = {"id": job["id"], "name": "approved", "value": {"by": "somebody"}}
    fails("a signal that nothing waits for", address, f"{service}/SignalJob", {**signal, "name": "other"}, FAILED_PRECONDITION, "signal")
    call(address, f"{service}/SignalJob", signal)
    code, out, err = grpcurl(address, f"{service}/WatchJob", data={"id": job["id"]})
    checks.holds("a watch ends with its job", code == OK and "JOB_STATE_COMPLETED" in out, out + err)
    told = get(flowchart=True)
    copy = told["job"]["steps"][0]
    attempt = copy["attempts"][0]
    checks.holds("a step tells when, where and within what budget", all(attempt.get(field) for field in SEEN), attempt)
    checks.holds("a job has its trace", len(told["job"]["traceId"]) == 32, told["job"])
    checks.holds("and a flowchart", told["flowchart"].startswith("flowchart") and "copy" in told["flowchart"], told)
    outputs, approved = told["job"]["output"]
    checks.equal("its output", (outputs["OUTPUT"]["data"], approved), ([3, 4], {"by": "somebody"}))

    other = call(address, f"{service}/SubmitJob", {"definition": {"name": "waits", "steps": [{**steps[1], "needs": []}]}})["job"]
    listed = call(address, f"{service}/ListJobs", {"states": ["JOB_STATE_RUNNING"]})["jobs"]
    checks.equal("one job is open", [found["id"] for found in listed], [other["id"]])
    call(address, f"{service}/CancelJob", {"id": other["id"], "reason": "not wanted"})
    code, out, err = grpcurl(address, f"{service}/WatchJob", data={"id": other["id"]})
    checks.holds("a cancelled job is undone", code == OK and "JOB_STATE_COMPENSATED" in out and "not wanted" in out, out + err)
    fails("what has ended is not cancelled", address, f"{service}/CancelJob", {"id": other["id"]}, FAILED_PRECONDITION, "ended")
    fails("an unknown job", address, f"{service}/GetJob", {"id": "00" + 26 * "0"}, NOT_FOUND, "job")


def overview(address, metrics):
    workers = call(address, "weft.control.v1.Workers/ListWorkers")["workers"]
    checks.holds("workers have addresses and replicas", all(w["worker"]["address"] and w["replicas"] for w in workers), workers)
    snapshot = call(address, "weft.router.v1.Router/GetSnapshot")
    ready = {model for endpoint in snapshot["endpoints"] for model in endpoint.get("ready", [])}
    checks.holds("the router knows ready replicas", "digits@1" in ready, ready)

    def summary():
        code, out, _ = grpcurl(metrics, "weft.metrics.v1.Metrics/Summary", data={"window": "60s", "model": "digits"})
        return code == OK and [model for model in json.loads(out).get("models", []) if int(model.get("calls", 0)) > 0]

    digits = checks.until("the metrics summary counts calls of digits", summary)
    checks.holds("it has percentiles", "p50" in digits[0] and "p99" in digits[0], digits)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    address = sys.argv[1]
    reflection(address)
    health(address)
    pixels = inference(address)
    models(address)
    routes(address, pixels)
    splits(address)
    jobs(address)
    overview(address, sys.argv[-1])
    checks.done()


main()
