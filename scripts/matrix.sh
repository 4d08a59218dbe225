#!/usr/bin/env bash
# Lets stock clients of either era visit stock servers of either era, straight and through the router.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/visits.sh
. "$(dirname "${BASH_SOURCE[0]}")/visits.sh"

usage() {
    cat <<'END'
Usage: scripts/matrix.sh [--only TEXT] [--write] [--keep]

Starts a cluster of its own (Redis, three routers, nginx that hands requests to them in turn) and behind it servers of
several makers, of MCP with sessions, of 2026-07-28 and of both; installs the clients that tests/clients/visits pins, and lets
each visit each, first straight and then through the router: it lists the tools, calls one, hears progress, is asked by a tool
(elicitation), gives a call up, and hears of a change of a resource. Exit code 1 when something works straight and not through
the router.

  --only TEXT    only visits whose "client → server" contains TEXT
  --write        put the table into docs/clients.md
  --keep         leave the folder with logs behind; it is left behind anyway on failure

Environment: BIN_DIR (binaries of the router), or BUILD_PROFILE to build them (release).
END
}

only="" keep=0 write=0
while [ $# -gt 0 ]; do
    case $1 in
        --only)
            [ $# -ge 2 ] || { usage >&2; exit 64; }
            only=$2
            shift
            ;;
        --write) write=1 ;;
        --keep) keep=1 ;;
        -h | --help)
            usage
            exit
            ;;
        *)
            usage >&2
            exit 64
            ;;
    esac
    shift
done

scripts=$project_root/scripts
visits=$project_root/tests/clients/visits
fixtures=$project_root/tests/fixtures
"$scripts/setup.sh" --tests
newer_node
for packages in "$visits" "$fixtures/conformance-server" "$fixtures/modern-server"; do node_packages "$packages"; done
for packages in "$visits" "$visits/matrix/python-1"; do python_packages "$packages"; done
# The newest client programs need it.
node_is 22 || export PATH="$own_node:$PATH"
find_binaries
build_rmcp

free_ports 15
# shellcheck disable=SC2086  # a list of numbers
set -- $chosen_ports
router_ports="$1 $2 $3" nginx_port=$4 redis_port=$5
shift 5
services="ts1 ts2 ts2m everything py1 py2 fm2 fm4 rmcp0 rmcp3"
MCP_UPSTREAMS="" direct="" listening=("$redis_port")
for service in $services; do
    MCP_UPSTREAMS+="${MCP_UPSTREAMS:+;}$service=http://127.0.0.1:$1/mcp"
    direct+="${direct:+ }$service=$1"
    printf -v "port_$service" %s "$1"
    listening+=("$1")
    shift
done
export MCP_UPSTREAMS
begin_cluster matrix "$router_ports" "$nginx_port" "$redis_port"

port_of() { # SERVICE
    local name=port_$1
    printf %s "${!name}"
}
launch ts1 node "$fixtures/conformance-server/server.mjs" "$(port_of ts1)"
launch ts2 env LEGACY=stateless node "$fixtures/modern-server/server.mjs" "$(port_of ts2)"
launch ts2m node "$fixtures/modern-server/server.mjs" "$(port_of ts2m)"
launch everything env PORT="$(port_of everything)" node "$visits/node_modules/.bin/mcp-server-everything" streamableHttp
launch py1 "$visits/matrix/python-1/.venv/bin/python" "$visits/matrix/server.py" mcp "$(port_of py1)"
launch py2 "$visits/.venv/bin/python" "$visits/matrix/server.py" mcp "$(port_of py2)"
launch fm2 "$visits/matrix/python-1/.venv/bin/python" "$visits/matrix/server.py" fastmcp "$(port_of fm2)"
launch fm4 "$visits/.venv/bin/python" "$visits/matrix/server.py" fastmcp "$(port_of fm4)"
for version in rmcp0 rmcp3; do launch "$version" "$RMCP_BIN/matrix-server" "$version" "$(port_of "$version")"; done
await_ports "${listening[@]}"
start_routers
start_nginx

declare -a options=(--url "http://127.0.0.1:$nginx_port" --direct "$direct" --only "$only")
[ "$write" = 0 ] || options+=(--write "$project_root/docs/clients.md")
node "$visits/matrix/run.mjs" "${options[@]}"
