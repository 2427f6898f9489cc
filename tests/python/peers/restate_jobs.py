"""Restate's side: the same jobs as Weft's, as a service of Restate's SDK. Served by granian over HTTP/2, which calls `app`.

`Jobs/run` takes {"id": ID} and does three steps, each a call to the ledger that Restate journals before the next one begins. `Jobs/undo` does the
same, has its last step fail for good, and undoes the two before it, as Restate's guide to sagas says. Keys are those that Weft would send, so the
ledger's barrier does the same work for both.
"""

import os
from datetime import timedelta

import grpc
import restate

SERVICE = "/weft.example.v1.Ledger/"
STEPS = ("one", "two", "three")
# What a call may take, as each step of Weft's job.
LIMIT_S = 30.0
CHANNEL = None


def field(text):
    """A string as the first field of a protobuf message."""
    data = text.encode()
    assert len(data) < 128
    return bytes([0x0A, len(data)]) + data


def channel():
    # Made in the worker's own event loop, and kept.
    global CHANNEL
    if CHANNEL is None:
        CHANNEL = grpc.aio.insecure_channel(os.environ["WEFT_PEER_LEDGER"])
    return CHANNEL


async def call(method, direction, key, message):
    metadata = (
        ("weft-idempotency-key", key),
        ("weft-direction", direction),
        ("weft-attempt", "1"),
        ("weft-epoch", "1"),
    )
    unary = channel().unary_unary(SERVICE + method)
    # Bytes in, bytes out: no stub is needed, and none costs time.
    answer = await unary(message, timeout=LIMIT_S, metadata=metadata)
    return len(answer)


async def publish(key):
    return await call("Publish", "action", key, field(key))


async def retract(key):
    return await call("Retract", "undo", key, b"")


async def refuse():
    raise restate.TerminalError("the last step fails for good")


jobs = restate.Service("Jobs", inactivity_timeout=timedelta(minutes=1))


@jobs.handler()
async def run(ctx: restate.Context, job: dict) -> dict:
    lengths = [await ctx.run_typed(step, publish, key=f"{job['id']}/{step}") for step in STEPS]
    return {"lengths": lengths}


@jobs.handler()
async def undo(ctx: restate.Context, job: dict) -> dict:
    undos = []
    try:
        for step in STEPS[:2]:
            key = f"{job['id']}/{step}"
            undos.append((step, key))
            await ctx.run_typed(step, publish, key=key)
        await ctx.run_typed(STEPS[2], refuse)
    except restate.TerminalError:
        for step, key in reversed(undos):
            await ctx.run_typed(f"undo {step}", retract, key=key)
        return {"undone": len(undos)}
    return {"undone": 0}


app = restate.app([jobs])
