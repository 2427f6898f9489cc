"""The foreign model `magika` against its own Python package: magika_reference.py HOST:PORT

For 50 files, some found in the repository and some made here, the package computes the features and its own answer; the
same features go through Weft. Every label must be the same, and no score may differ by more than rounding does.
`tests/scripts/models.sh` fetches the model and the environment this runs in.
"""

import concurrent.futures
import gzip
import io
import json
import pathlib
import random
import sqlite3
import struct
import sys
import tarfile
import wave
import zipfile
import zlib

import grpc
import numpy as np
from magika import Magika
from magika.types import Seekable
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ["proto", "services", "shared", "tests"]
FILES = 50
# The package asks for one file at a time; in a batch ONNX Runtime itself is up to 5e-5 away from that.
MOST_DIFFERENCE = 1e-4
# So many calls at once that the worker can batch them.
CALLERS = 8
DEADLINE_S = 60.0
WORDS = "the a mesh model worker router carries holds answers refuses every call within its deadline and no later".split()


def prose(seed, count=200):
    source = random.Random(seed)
    return " ".join(source.choice(WORDS) for _ in range(count))


def archive(kind):
    memory = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(zipfile.ZipInfo("one.txt"), prose(1))
    else:
        with tarfile.open(fileobj=memory, mode="w") as file:
            content = prose(2).encode()
            entry = tarfile.TarInfo("two.txt")
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return memory.getvalue()


def sound():
    memory = io.BytesIO()
    with wave.open(memory, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"".join(struct.pack("<h", (at * 257) % 20000 - 10000) for at in range(4000)))
    return memory.getvalue()


def picture(width=32, height=32):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes((x * y + shade) % 256 for x in range(width) for shade in (0, 85, 170)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def database():
    connection = sqlite3.connect(":memory:")
    connection.execute("create table words (id integer primary key, word text)")
    connection.executemany("insert into words (word) values (?)", [(word,) for word in WORDS])
    connection.commit()
    return connection.serialize() if hasattr(connection, "serialize") else b"SQLite format 3\0" + bytes(4080)


def made():
    """Contents of many kinds, the same in every run."""
    table = [[prose(row, 1), row, row * 1.5] for row in range(40)]
    texts = {
        "text": prose(3),
        "markdown": f"# {prose(4, 4)}\n\n{prose(5, 40)}\n\n- one\n- two\n\n```rust\nfn main() {{}}\n```\n",
        "json": json.dumps({"rows": table}, indent=1),
        "csv": "word,number,half\n" + "\n".join(",".join(map(str, row)) for row in table),
        "html": f"<!DOCTYPE html>\n<html><head><title>x</title></head><body><p>{prose(6)}</p></body></html>",
        "xml": f'<?xml version="1.0"?>\n<mesh>{"".join(f"<call n={chr(34)}{at}{chr(34)}/>" for at in range(60))}</mesh>',
        "yaml": "".join(f"- name: {prose(at, 1)}\n  replicas: {at}\n" for at in range(30)),
        "sql": "".join(f"INSERT INTO words (id, word) VALUES ({at}, '{prose(at, 1)}');\n" for at in range(30)),
        "c": "#include <stdio.h>\n\nint main(void) {\n    printf(\"%d\\n\", 42);\n    return 0;\n}\n",
        "javascript": "export function answer(call) {\n  const left = call.deadline - Date.now();\n  return left > 0;\n}\n",
        "shell": "#!/bin/sh\nset -eu\nfor model in identity digits; do\n  echo \"loading $model\"\ndone\n",
        "css": "body { margin: 0; color: #333; }\n.call > p { padding: 1em 2em; font-size: 12px; }\n",
        "diff": "--- a/one\n+++ b/one\n@@ -1,3 +1,3 @@\n context\n-old line\n+new line\n context\n",
    }
    binary = {
        "zip": archive("zip"),
        "tar": archive("tar"),
        "gzip": gzip.compress(prose(7).encode(), mtime=0),
        "wav": sound(),
        "png": picture(),
        "sqlite": database(),
        "pdf": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n" * 3,
        "noise": random.Random(8).randbytes(5000),
    }
    return {**{name: text.encode() for name, text in texts.items()}, **binary}


def found(count):
    """As many files of the repository, spread over its folders in the order of their names."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    paths = [path for path in paths if "__pycache__" not in path.parts and path.stat().st_size >= 200]
    step = max(1, len(paths) // count)
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in paths[::step]}


def features_of(package, content):
    """What the package would hand to its model, as one row and as it is; None where it answers without."""
    _, features = package._get_result_or_features_from_seekable(Seekable(io.BytesIO(content)))
    return None if features is None else ([*features.beg, *features.mid, *features.end], features)


def ask(stub, row):
    """Weft's scores for one file."""
    request = pb.ModelInferRequest(model_name="magika")
    request.inputs.add(name="bytes", datatype="INT32", shape=[1, len(row)])
    request.raw_input_contents.append(np.asarray(row, dtype="<i4").tobytes())
    response = stub.ModelInfer(request, timeout=DEADLINE_S)
    return np.frombuffer(response.raw_output_contents[0], dtype="<f4")


def main(address):
    package = Magika()
    files, rows, scores = [], [], []
    for name, content in {**made(), **found(2 * FILES)}.items():
        known = features_of(package, content)
        if known is None or len(files) == FILES:
            continue
        row, features = known
        files.append((name, str(package.identify_bytes(content).dl.label)))
        rows.append(row)
        scores.append(np.asarray(package._get_raw_predictions([(pathlib.Path("-"), features)])[0], dtype=np.float32))
    if len(files) < FILES:
        sys.exit(f"magika: only {len(files)} files, {FILES} are needed")

    with grpc.insecure_channel(address) as channel, concurrent.futures.ThreadPoolExecutor(CALLERS) as callers:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = list(callers.map(lambda row: ask(stub, row), rows))

    agree, difference = 0, 0.0
    for (name, label), expected, answer in zip(files, scores, answers):
        own = package._target_labels_space[int(answer.argmax())] if len(answer) == len(expected) else "nothing"
        difference = max(difference, float(np.abs(answer - expected).max())) if own != "nothing" else float("inf")
        agree += own == label
        if own != label:
            print(f"magika: {name}: the package says {label}, Weft {own}")
    kinds = len({label for _, label in files})
    print(f"magika: {agree} of {FILES} agree, max difference {difference:.1e} ({kinds} kinds of file)")
    return 0 if agree == FILES and difference <= MOST_DIFFERENCE else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    sys.exit(main(sys.argv[1]))
