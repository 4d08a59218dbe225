#!/usr/bin/env bash
# Breaks router instances under sessions with calls in flight, and shows that nothing is lost and nothing happens twice.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/failover-drill.sh [--kill | --term | --stop | --mixed | --rolling | --redis-stop | --server-kill]
                                 [--redis sentinel | cluster]
                                 [--transport sse | streamable | mixed | stateless] [--edge] [OPTION…]
       scripts/failover-drill.sh --client typescript | python | rmcp | mcp-remote | framework | all [--edge]
                                 [--transport sse | streamable | mixed] [--rounds N]

Sessions call tools without a pause through nginx; the instance that owns one of them is broken; when its sessions are
served again and it is back, the next one is broken. Then a table, and exit code 1 if anything was lost or came twice.

  --kill         SIGKILL of the instance, then a restart (the default)
  --term         SIGTERM: it drains, then a restart
  --stop         SIGSTOP for longer than its lease: it hangs, its watchdog kills it, then a restart. With MCP_WATCHDOG=0s
                 in the environment it goes on instead (SIGCONT)
  --mixed        one of these three each time, at random
  --rolling      start-instances.sh rolling-restart
  --redis-stop   SIGSTOP of Redis for 3 to 9 s, then SIGCONT; times are counted from its end. With --running, REDIS_PID
                 names the process
  --server-kill  SIGKILL of one MCP server, then a restart
  --all-faults   one of all these but --rolling each time, at random
  --transport T  how the clients speak, and the servers behind: sse (the default), streamable, or mixed (half of them each).
                 A client of Streamable HTTP comes back to a call by GET and Last-Event-ID, after the time that it was told.
                 stateless: clients of 2026-07-28, whose calls have idempotency keys and are asked again under new ids when
                 their connections break (--kill, --term, --stop, --mixed); -- --without-keys counts what runs twice then
  --servers T    how the servers speak, when that is to be another transport than the clients'; not with --running
  --redis T      Redis of several nodes, sentinel or cluster (scripts/redis-topology.sh), and as a fault that another of them
                 becomes a primary: by turns by order and by SIGKILL. Alone, or with --kill, --term, --stop, --mixed in turns
                 at random. Not with --running. What Redis acknowledged and lost with a primary is lost: with REDIS_COPIES=1 in
                 the environment that is nothing
  --edge         nginx with nginx-edge.conf, which keeps the clients' streams; not with --running
  --client NAME  with published clients instead, as they are: what each of them sees when the instance that serves its stream is
                 killed three times with a call in flight. A table; scripts/clients.sh --fronts does it
  --rounds N     faults (10; with --client 3)
  --minutes N    as many faults as fit into N minutes
  --sessions N   sessions (64)
  --report FILE  write what was found, with plots, into this HTML file, too; not with --client
  --running      on the cluster that start-instances.sh (with DRILL_TOOLS=1) and nginx-local.sh have started, with the
                 same environment: ROUTER_PORTS, RUN_DIR, NGINX_PORT; DRILL_URL names another front door. Otherwise the
                 drill starts its own: free ports, Redis without persistence, files in a temporary folder
  --turns        nginx hands requests to the instances in turn (IP_HASH=off), so that most sessions have their owner and
                 their stream on two instances; otherwise clients come from many addresses, and ip_hash spreads them
  --together     all clients come from one address: ip_hash hands all sessions to one instance
  --keep         leave the folder with logs behind; it is left behind anyway when the drill fails
  --             what follows goes to the client: target/release/examples/drill --help

Environment: BIN_DIR (binaries of the router and the server) and DRILL_BIN (the client); they are built otherwise, by
BUILD_PROFILE: release, which builds quickly, or dist, which is for deployments (release).
END
}

faults="" redis="" transport="" servers="" client="" edge=off rounds="" minutes="" sessions=64 running=0 turns=0 together=0 keep=0 report=""
while [ $# -gt 0 ]; do
    case $1 in
        --kill | --term | --stop | --rolling | --redis-stop | --server-kill) faults=${1#--} ;;
        --all-faults) faults=kill,term,stop,redis-stop,server-kill ;;
        --mixed) faults=kill,term,stop ;;
        --rounds | --minutes | --sessions)
            [ $# -ge 2 ] || { usage >&2; exit 64; }
            case $2 in '' | *[!0-9.]*) die "$1 takes a number, not: $2" ;; esac
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        --transport | --servers)
            case "$1 ${2:-}" in
                *" sse" | *" streamable" | *" mixed" | "--transport stateless") ;;
                *) die "$1 takes sse, streamable or mixed, and --transport also stateless" ;;
            esac
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        --report)
            [ $# -ge 2 ] || { usage >&2; exit 64; }
            report=$(absolute "$2")
            shift
            ;;
        --redis)
            case ${2:-} in sentinel | cluster) redis=$2 ;; *) die "--redis takes sentinel or cluster" ;; esac
            shift
            ;;
        --client)
            [ $# -ge 2 ] || { usage >&2; exit 64; }
            client=$2
            shift
            ;;
        --edge) edge=on ;;
        --running) running=1 ;;
        --turns) turns=1 ;;
        --together) together=1 ;;
        --keep) keep=1 ;;
        --)
            shift
            break
            ;;
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

if [ -n "$client" ]; then
    [ -z "$report" ] || die "--report is for the drill's own clients; scripts/clients.sh writes a table"
    case $edge in on) fronts=edge ;; *) fronts=stock ;; esac
    exec "$project_root/scripts/clients.sh" --client "$client" --fronts "$fronts" --rounds "${rounds:-3}" --transport "${transport:-mixed}"
fi
transport=${transport:-sse} rounds=${rounds:-10}
if [ -n "$redis" ]; then
    [ "$running" = 0 ] || die "--redis is for a cluster of the drill's own"
    faults=${faults:+$faults,}redis-change
fi
faults=${faults:-kill}
[ "$edge$running" != on1 ] || die "--edge is for a cluster of the drill's own: scripts/nginx-local.sh start --edge"
build_profile=${BUILD_PROFILE:-release}
target_dir=$(absolute "${CARGO_TARGET_DIR:-$project_root/target}")
drill_bin=${DRILL_BIN:-}
if [ -z "$drill_bin" ]; then
    have cargo || die "Rust is missing: https://rustup.rs (or set BIN_DIR and DRILL_BIN)"
    say "Building what is not built yet (cargo build --profile $build_profile; the first time takes some minutes)"
    # Not in one command: the router would be built with what only examples and tests need.
    (cd "$project_root" && cargo build --profile "$build_profile" --bins &&
        cargo build --profile "$build_profile" --example drill)
    drill_bin=$target_dir/$build_profile/examples/drill
fi
# That of a cluster which runs already is its own.
if [ "$running" = 0 ]; then say "Drilled: ${BIN_DIR:-a build of the profile $build_profile}"; fi
export BIN_DIR=${BIN_DIR:-$target_dir/$build_profile}
have curl || die "curl is missing: run scripts/setup.sh"

# --- A cluster of our own ------------------------------------------------------------------------------------------------

folder="" redis_pid="" routers_started=0 nginx_started=0
stop_all() {
    local status=$?
    trap - EXIT INT TERM
    [ "$nginx_started" = 0 ] || "$project_root/scripts/nginx-local.sh" stop >/dev/null || true
    [ "$routers_started" = 0 ] || STOP_TIMEOUT=10 "$project_root/scripts/start-instances.sh" stop >/dev/null 2>&1 || true
    [ ! -e "$folder/redis" ] || "$project_root/scripts/redis-topology.sh" stop "$folder/redis"
    if [ -n "$redis_pid" ]; then
        kill "$redis_pid" 2>/dev/null || true
        wait "$redis_pid" 2>/dev/null || true
    fi
    if [ -n "$folder" ]; then
        if [ "$status" = 0 ] && [ "$keep" = 0 ]; then rm -rf "$folder"; else say "Logs: $folder/logs"; fi
    fi
    exit "$status"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

upstreams() { # PATH PATH: of the two servers
    # shellcheck disable=SC2086  # a list of numbers
    set -- "$@" $SERVER_PORTS
    printf 'mcp-server-v6=http://127.0.0.1:%s/%s,http://127.0.0.1:%s/%s' "$3" "$1" "$4" "$2"
}

start_own() {
    local redis_bin tries=0 port
    redis_bin=$(find_command redis-server) || die "redis-server is missing: run scripts/setup.sh"
    find_command nginx >/dev/null || die "nginx is missing: run scripts/setup.sh"
    folder=$(mktemp -d "${TMPDIR:-/tmp}/mcp-drill.XXXXXX")
    free_ports 7
    # shellcheck disable=SC2086  # a list of numbers
    set -- $chosen_ports
    export ROUTER_PORTS="$1 $2 $3" SERVER_PORTS="$4 $5" NGINX_PORT=$6 REDIS_URL=redis://127.0.0.1:$7
    export RUN_DIR=$folder/run LOG_DIR=$folder/logs DRILL_TOOLS=1 ENV_FILE=$folder/env
    export NGINX_ADDRESS=127.0.0.1 IP_HASH=on EDGE=$edge
    unset COUNTS_FILE SERVER_ADDRESS
    case ${servers:-$transport} in
        sse) MCP_UPSTREAMS=$(upstreams sse sse) ;;
        streamable | stateless) MCP_UPSTREAMS=$(upstreams mcp mcp) ;;
        mixed) MCP_UPSTREAMS=$(upstreams sse mcp) ;;
    esac
    export MCP_UPSTREAMS
    [ "$turns" = 0 ] || IP_HASH=off
    mkdir -p "$RUN_DIR" "$LOG_DIR"
    : >"$ENV_FILE"
    for port in $ROUTER_PORTS; do
        [ ! -e "$project_root/.env.$port" ] || die "there is a .env.$port, and the drill has chosen that port; try again"
    done
    if [ -n "$redis" ]; then
        REDIS_URL=$("$project_root/scripts/redis-topology.sh" start "$redis" "$folder/redis")
    else
        "$redis_bin" --port "$7" --bind 127.0.0.1 --save '' --appendonly no --dir "$folder" --daemonize no \
            >"$LOG_DIR/redis.log" 2>&1 &
        redis_pid=$!
    fi
    until redis_query "$REDIS_URL" PING >/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || die "Redis does not answer; see $LOG_DIR/redis.log"
        sleep 0.1
    done
    routers_started=1
    "$project_root/scripts/start-instances.sh" start
    nginx_started=1
    "$project_root/scripts/nginx-local.sh" start
    url=http://127.0.0.1:$NGINX_PORT
}

run_dir=$(absolute "${RUN_DIR:-$project_root/run}")
if [ "$running" = 1 ]; then
    url=${DRILL_URL:-http://127.0.0.1:${NGINX_PORT:-8080}}
    "$project_root/scripts/start-instances.sh" status || die "not all is ready, see above"
    [ "$(http_code "$url/actuator/health/readiness")" = 200 ] ||
        die "nobody answers at $url: scripts/nginx-local.sh start, or name the front door by DRILL_URL"
    [ -f "${COUNTS_FILE:-$run_dir/counts}" ] ||
        die "the servers keep no record of increments: DRILL_TOOLS=1 scripts/start-instances.sh restart"
else
    start_own
    run_dir=$RUN_DIR
fi

declare -a options=(
    --url "$url" --ports "${ROUTER_PORTS:-$default_router_ports}" --run-dir "$run_dir"
    --counts "${COUNTS_FILE:-$run_dir/counts}"
    --restart "'$project_root/scripts/start-instances.sh' start"
    --rolling "'$project_root/scripts/start-instances.sh' rolling-restart"
    --transport "$transport" --faults "$faults" --rounds "$rounds" --sessions "$sessions"
)
paused_redis=${redis_pid:-${REDIS_PID:-}}
[ -z "$paused_redis" ] || options+=(--redis-pid "$paused_redis")
[ -z "${SERVER_PORTS:-}" ] || options+=(--server-ports "$SERVER_PORTS")
[ -z "$redis" ] || options+=(--redis-change "'$project_root/scripts/redis-topology.sh' change '$folder/redis'")
[ -z "$minutes" ] || options+=(--minutes "$minutes")
[ -z "$report" ] || options+=(--report "$report")
# Elsewhere than on Linux only 127.0.0.1 is there.
[ "$turns$together" != 00 ] || [ "$(uname)" != Linux ] || options+=(--spread)
"$drill_bin" "${options[@]}" "$@"
