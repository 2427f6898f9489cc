#!/bin/sh
# The protobuf compiler that etcd-client's build script asks for (see .cargo/config.toml): the machine's own when there
# is one, else protox, a drop-in written in Rust, built once into the cargo home.
set -eu
if command -v protoc >/dev/null 2>&1; then
    exec protoc "$@"
fi
root="${CARGO_HOME:-$HOME/.cargo}/weft-tools/protox-0.10.0"
if [ ! -x "$root/bin/protox" ]; then
    echo "no protoc found: building protox 0.10.0 into $root" >&2
    # Away from the build that is running: its target directory is locked, and its flags are not for this.
    (
        unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
        cd /
        cargo install protox --version 0.10.0 --features bin --locked --profile dev --quiet --root "$root" >&2
    )
fi
exec "$root/bin/protox" "$@"
