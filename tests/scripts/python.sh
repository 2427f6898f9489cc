# shellcheck shell=bash
# Sourced by the scripts that need a Python environment: new_venv FOLDER LOG makes one, anew. Python with its venv module is all that
# the machine must have; Debian's and Ubuntu's are installed when that is missing and we are root.

python_is_new_enough() {
    command -v python3 >/dev/null 2>&1 && python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'
}

# `python3 -m venv` half succeeds where Debian's python3-venv is missing, so the answer is whether pip runs.
try_venv() {
    rm -rf "${1:?}" && python3 -m venv "$1" >"$2" 2>&1 && "$1/bin/python" -m pip --version >>"$2" 2>&1
}

install_python() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    echo "installing python3 and python3-venv with apt-get" >&2
    local packages=(python3 python3-venv) log="$1"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >"$log" 2>&1 || {
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
    } >>"$log" 2>&1
}

new_venv() {
    mkdir -p "$(dirname "$1")" "$(dirname "$2")"
    python_is_new_enough && try_venv "$1" "$2" && return
    if ! install_python "$2"; then
        echo "Python 3.10 or newer with venv is needed: install python3 and python3-venv (as root this is done for you), see $2" >&2
        return 1
    fi
    python_is_new_enough || { echo "python3 is $(python3 --version 2>&1), and 3.10 or newer is needed" >&2; return 1; }
    try_venv "$1" "$2" || { echo "python3 -m venv failed, see $2" >&2; return 1; }
}
