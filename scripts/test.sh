#!/usr/bin/env bash
# Runs all tests, after installing what they need: redis-server, nginx, and the MCP SDK clients they drive.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/test.sh [ARG…]

Installs what the tests need (system packages by scripts/setup.sh, the clients' packages into ignored folders below
tests/clients), then runs cargo nextest, or cargo test where nextest is not installed. ARGs go to it:

  scripts/test.sh                          all tests
  scripts/test.sh --test store_contract    the tests of one file
  scripts/test.sh some_name                tests whose name contains some_name
END
}
case ${1:-} in
    -h | --help)
        usage
        exit
        ;;
esac

cd "$project_root"
have cargo || die "Rust is missing. Install it: https://rustup.rs"
scripts/setup.sh --tests

# Runs COMMAND unless it has already been run with FILE as it is now; STAMP remembers it.
once_per_version() { # STAMP FILE COMMAND…
    local stamp=$1 file=$2
    shift 2
    if [ "$(cat "$stamp" 2>/dev/null)" = "$(cksum <"$file")" ]; then return 0; fi
    "$@"
    cksum <"$file" >"$stamp"
}

# Distributions carry older ones; a newer Node.js then comes from npm, for the tests alone.
if ! node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)'; then
    own_node=$project_root/tests/clients/node_modules
    [ -x "$own_node/.bin/node" ] ||
        npm install --prefix tests/clients --no-save --no-package-lock --no-audit --no-fund --loglevel=error node@22
    export PATH="$own_node/.bin:$PATH"
fi

install_node_clients() (
    cd tests/clients/typescript
    npm ci --no-audit --no-fund --loglevel=error
)
install_python_clients() {
    python3 -m venv --clear tests/clients/python/.venv
    tests/clients/python/.venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --requirement tests/clients/python/requirements.txt
}
if [ -f tests/clients/typescript/package-lock.json ]; then
    once_per_version tests/clients/typescript/node_modules/.installed tests/clients/typescript/package-lock.json \
        install_node_clients
fi
if [ -f tests/clients/python/requirements.txt ]; then
    once_per_version tests/clients/python/.venv/.installed tests/clients/python/requirements.txt install_python_clients
fi

# One build for all: fault points do nothing unless a test names one in the environment.
features=fault-points
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --features "$features" "$@"
    # nextest does not run the examples in the documentation.
    [ $# != 0 ] || cargo test --workspace --doc --quiet --features "$features"
else
    cargo test --workspace --features "$features" "$@"
fi
