#!/usr/bin/env bash
# Runs all tests, after installing what they need: redis-server, nginx, the MCP SDK clients they drive, the official
# conformance suite.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/test.sh [ARG…]

Installs what the tests need (system packages by scripts/setup.sh, the packages of clients and fixtures into ignored
folders beside them), then runs cargo nextest, or cargo test where nextest is not installed. ARGs go to it:

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
# Where nginx's Lua module cannot be had, the tests of nginx-edge.conf say so and are left out.
scripts/setup.sh --edge || export MCP_TEST_EDGE=skip
# As the tests of deploy/prometheus and deploy/grafana where there is no Prometheus.
scripts/setup.sh --monitoring || export MCP_TEST_PROMETHEUS=skip
# And those of the dashboard where there is no Chromium.
if scripts/setup.sh --browser; then
    MCP_TEST_CHROMIUM=$(find_command chromium)
    export MCP_TEST_CHROMIUM
else
    export MCP_TEST_BROWSER=skip
fi

# The conformance suite needs Node.js 22 and finds it by itself; the clients take what the system has, if it will do.
newer_node
node_is 20 || export PATH="$own_node:$PATH"
for folder in ui tests/clients/browser tests/clients/typescript tests/clients/conformance tests/fixtures/conformance-server tests/fixtures/modern-server tests/fixtures/modern-tools \
    tests/fixtures/authorization-server; do
    node_packages "$folder"
done
# Of tests/clients/visits the two fastmcp.
for folder in tests/clients/python tests/clients/visits tests/clients/visits/matrix/python-1; do python_packages "$folder"; done

# One build for all: fault points do nothing unless a test names one in the environment.
features=fault-points
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --features "$features" "$@"
    # nextest does not run the examples in the documentation.
    [ $# != 0 ] || cargo test --workspace --doc --quiet --features "$features"
else
    cargo test --workspace --features "$features" "$@"
fi

# Files that no test of the router reads.
[ $# != 0 ] || scripts/check-deploy.sh
