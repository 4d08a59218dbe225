#!/usr/bin/env bash
# Lets stock clients of either era visit stock servers of either era, straight and through the router.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

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
if [ -z "${BIN_DIR:-}" ]; then
    build_profile=${BUILD_PROFILE:-release}
    have cargo || die "Rust is missing: https://rustup.rs (or set BIN_DIR)"
    (cd "$project_root" && cargo build --profile "$build_profile" --bins)
    BIN_DIR=$(absolute "${CARGO_TARGET_DIR:-$project_root/target}")/$build_profile
fi
export BIN_DIR
redis_bin=$(find_command redis-server) || die "redis-server is missing: run scripts/setup.sh"

folder=$(mktemp -d "${TMPDIR:-/tmp}/mcp-matrix.XXXXXX")
declare -a pids=()
routers_started=0 nginx_started=0
stop_all() {
    local status=$?
    trap - EXIT INT TERM
    [ "$nginx_started" = 0 ] || "$scripts/nginx-local.sh" stop >/dev/null || true
    [ "$routers_started" = 0 ] || STOP_TIMEOUT=10 "$scripts/start-instances.sh" stop >/dev/null 2>&1 || true
    if [ ${#pids[@]} != 0 ]; then
        kill "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    if [ "$status" = 0 ] && [ "$keep" = 0 ]; then rm -rf "$folder"; else say "Logs: $folder/logs"; fi
    exit "$status"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_ports 13
# shellcheck disable=SC2086  # a list of numbers
set -- $chosen_ports
export ROUTER_PORTS="$1 $2 $3" SERVER_PORTS="" NGINX_PORT=$4 REDIS_URL=redis://127.0.0.1:$5
export RUN_DIR=$folder/run LOG_DIR=$folder/logs ENV_FILE=$folder/env NGINX_ADDRESS=127.0.0.1 IP_HASH=off
redis_port=$5
shift 5
services="ts1 ts2 ts2m everything py1 py2 fm2 fm4"
MCP_UPSTREAMS="" direct=""
for service in $services; do
    MCP_UPSTREAMS+="${MCP_UPSTREAMS:+;}$service=http://127.0.0.1:$1/mcp"
    direct+="${direct:+ }$service=$1"
    printf -v "port_$service" %s "$1"
    shift
done
export MCP_UPSTREAMS
unset SERVER_ADDRESS EDGE EDGE_OPTIONS TLS_PORT
mkdir -p "$RUN_DIR" "$LOG_DIR"
: >"$ENV_FILE"

# Starts COMMAND in the background, its output in a log of its own.
launch() { # NAME COMMAND…
    local name=$1
    shift
    "$@" >"$LOG_DIR/$name.log" 2>&1 &
    pids+=($!)
}
port_of() { # SERVICE
    local name=port_$1
    printf %s "${!name}"
}
launch redis "$redis_bin" --port "$redis_port" --bind 127.0.0.1 --save '' --appendonly no --dir "$folder" --daemonize no
launch ts1 node "$fixtures/conformance-server/server.mjs" "$(port_of ts1)"
launch ts2 env LEGACY=stateless node "$fixtures/modern-server/server.mjs" "$(port_of ts2)"
launch ts2m node "$fixtures/modern-server/server.mjs" "$(port_of ts2m)"
launch everything env PORT="$(port_of everything)" node "$visits/node_modules/.bin/mcp-server-everything" streamableHttp
launch py1 "$visits/matrix/python-1/.venv/bin/python" "$visits/matrix/server.py" mcp "$(port_of py1)"
launch py2 "$visits/.venv/bin/python" "$visits/matrix/server.py" mcp "$(port_of py2)"
launch fm2 "$visits/matrix/python-1/.venv/bin/python" "$visits/matrix/server.py" fastmcp "$(port_of fm2)"
launch fm4 "$visits/.venv/bin/python" "$visits/matrix/server.py" fastmcp "$(port_of fm4)"
for service in $services; do
    tries=0
    until port_taken "$(port_of "$service")"; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || die "a server does not listen; see $LOG_DIR/$service.log"
        sleep 0.1
    done
done
routers_started=1
"$scripts/start-instances.sh" start
nginx_started=1
"$scripts/nginx-local.sh" start

declare -a options=(--url "http://127.0.0.1:$NGINX_PORT" --direct "$direct" --only "$only")
[ "$write" = 0 ] || options+=(--write "$project_root/docs/clients.md")
node "$visits/matrix/run.mjs" "${options[@]}"
