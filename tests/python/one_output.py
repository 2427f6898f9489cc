"""Writes an ONNX file with one of its outputs under a name of its own: one_output.py SOURCE TARGET OUTPUT NAME

The published MiniLM repeats its inputs and hidden states among its outputs. This edits the protobuf of the graph itself, field by
field, so that the same source always gives the same bytes.
"""

import sys

GRAPH, NODE, OUTPUT = 7, 1, 12
NODE_INPUT, NODE_OUTPUT, NODE_KIND = 1, 2, 4
VALUE_NAME = 1


def varint(number):
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(encoded) + bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def read_varint(source, at):
    value, shift = 0, 0
    while True:
        byte = source[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(source):
    """Each field as (number, content or None, the bytes as they are)."""
    at = 0
    while at < len(source):
        start = at
        key, at = read_varint(source, at)
        content = None
        if key & 7 == 0:
            _, at = read_varint(source, at)
        elif key & 7 == 2:
            length, at = read_varint(source, at)
            content, at = source[at : at + length], at + length
        else:
            at += {1: 8, 5: 4}[key & 7]
        yield key >> 3, content, source[start:at]


def renamed(value, name):
    return b"".join(field(VALUE_NAME, name) if number == VALUE_NAME else whole for number, _, whole in fields(value))


def named(value):
    return next(content for number, content, _ in fields(value) if number == VALUE_NAME)


def edit_graph(graph, output, name):
    identity = field(NODE_INPUT, output) + field(NODE_OUTPUT, name) + field(NODE_KIND, b"Identity")
    parts, kept = [], None
    for number, content, whole in fields(graph):
        if number != OUTPUT:
            parts.append(whole)
        elif named(content) == output:
            kept = content
    if kept is None:
        sys.exit(f"there is no output {output.decode()}")
    return b"".join(parts) + field(NODE, identity) + field(OUTPUT, renamed(kept, name))


def main(source, target, output, name):
    with open(source, "rb") as file:
        model = file.read()
    parts = [
        field(GRAPH, edit_graph(content, output.encode(), name.encode())) if number == GRAPH else whole
        for number, content, whole in fields(model)
    ]
    with open(target, "wb") as file:
        file.write(b"".join(parts))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__.splitlines()[0])
    main(*sys.argv[1:])
