#!/usr/bin/env bash
# Measures the router next to nginx as a plain proxy and to no proxy at all, in one run, and writes the page about it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/bench.sh [OPTION…]

Builds the binaries as they are deployed (profile dist), starts Redis (without persistence), an MCP server, nginx and routers on free ports of
loopback, lets the setups take turns, and stops what it started. Linux only: CPU and memory are read from /proc.

  --quick          one short round, to see that everything works; the figures mean little
  --rounds N       rounds; the page shows medians                                (3)
  --seconds N      length of one measurement                                     (5)
  --only NAMES     only these modes and setups, separated by commas; may be repeated
  --payload BYTES  text that each call carries                                   (64)
  --sizes "N …"    sessions in the modes sse and streamable                      ("1 32 256 2000")
  --idle "N …"     sessions in the modes idle and streamable-idle
                                                             (1000, and 10000 or what the file limit allows)
  --to FILE        page to write; - is standard output      (docs/performance.md; with --quick or --only: -)
  --report FILE    write plots of all that into this HTML file, too
  --peers          beside them another gateway for Streamable HTTP, mcp-proxy of crates.io, which is built first (minutes)
  --auth           beside them routers that ask who calls: router-keys (API keys) and router-tokens (JWTs, RS256)
  --results FILE   keep the results of all runs there, one line of JSON each

Modes:
  sse              tool calls over HTTP+SSE, to an HTTP+SSE server
  paced            the same, with a pause after each call
  streamable       tool calls over Streamable HTTP, to a Streamable HTTP server, answers as JSON on both sides
  streamed         the same, answers as event streams on both sides (MCP_JSON_WAIT=0s)
  streamable-sse   tool calls over Streamable HTTP, to an HTTP+SSE server; without a router there is no such thing
  stateless        tool calls of 2026-07-28, which has no sessions, to a server of that version
  stateless-list   lists of tools in place of calls, which the router may keep
  rest             tool calls as plain POSTs
  events           event streams that a server fills, with nginx alone before it: what nginx-edge.conf costs beside nginx.conf
  events-idle      memory of such streams on which nothing happens
  idle             memory of idle HTTP+SSE sessions
  streamable-idle  memory of idle Streamable HTTP sessions, each with its GET stream open
  open churn       HTTP+SSE sessions opened and closed, and what is left of them
  failover         an owner is killed under load
Setups: direct nginx router router-redis cluster cluster-any; of events and events-idle: front front-edge

Environment: BUILD_PROFILE (dist), BIN_DIR (ready binaries mcp-router and load; nothing is built then), REDIS_BIN,
NGINX_BIN
END
}

all_modes="sse paced streamable streamed streamable-sse stateless stateless-list rest events events-idle idle streamable-idle open churn failover"
all_setups="direct nginx router router-redis cluster cluster-any front front-edge"
rounds=3 seconds=5 warmup=1 payload=64 sizes="1 32 256 2000" busy_sessions=256 callers=32 openers=32
# Streams of the edge, and how many milliseconds each is silent between two events.
event_streams="32 256" every=20
# Of variants of a mode.
few_sizes="32 256"
# A router and nginx have two open files for each session, and some for themselves.
most_files=$(ulimit -Hn)
case $most_files in *[!0-9]*) most_files=65536 ;; esac
many_idle=$(((most_files - 200) / 2))
[ "$many_idle" -lt 10000 ] || many_idle=10000
idle_sizes="1000 $many_idle"
# Behind two proxies on one machine a session has more ends than one process may have ports.
most_idle_of_cluster=2000
# 256 sessions that pause for 0.1 s make up to 2,500 calls per second, which leaves CPU idle.
pause=0.1
modes="" setups="" page="" results="" html="" partial=0 peers="" auth=""
peer_version=0.6.0

while [ $# -gt 0 ]; do
    case $1 in
        --quick)
            rounds=1 seconds=1 warmup=0.3 sizes="1 32 256" idle_sizes=200 partial=1
            shift
            continue
            ;;
        --peers)
            peers=mcp-proxy
            shift
            continue
            ;;
        --auth)
            auth="router-keys router-tokens"
            shift
            continue
            ;;
        -h | --help)
            usage
            exit
            ;;
    esac
    [ $# -ge 2 ] || { usage >&2; exit 64; }
    case $1 in
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --payload) payload=$2 ;;
        --sizes) sizes=$2 ;;
        --idle) idle_sizes=$2 ;;
        --to) page=$2 ;;
        --report) html=$(absolute "$2") ;;
        --results) results=$(absolute "$2") ;;
        --only)
            partial=1
            for name in ${2//,/ }; do
                case " $all_modes " in *" $name "*) modes="$modes $name" && continue ;; esac
                case " $all_setups " in *" $name "*) setups="$setups $name" && continue ;; esac
                die "neither a mode nor a setup: $name"
            done
            ;;
        *)
            usage >&2
            exit 64
            ;;
    esac
    shift 2
done
modes=${modes:-$all_modes} setups="${setups:-$all_setups} $peers $auth"
if [ -z "$page" ]; then
    if [ "$partial" = 1 ]; then page=-; else page=$project_root/docs/performance.md; fi
fi
[ "$page" = - ] || page=$(absolute "$page")
[ -r /proc/self/stat ] || die "only Linux tells what this script wants to know"
wanted() { case " $2 " in *" $1 "*) ;; *) return 1 ;; esac; } # NAME LIST

redis_bin=${REDIS_BIN:-$(find_command redis-server)} || die "redis-server is not installed: run scripts/setup.sh"
nginx_bin=${NGINX_BIN:-$(find_command nginx)} || die "nginx is not installed: run scripts/setup.sh"

# --- Binaries --------------------------------------------------------------------------------------------------------

cd "$project_root"
if [ -n "${BIN_DIR:-}" ]; then
    router_bin=$(absolute "$BIN_DIR/mcp-router") load_bin=$(absolute "$BIN_DIR/load")
else
    build_profile=${BUILD_PROFILE:-dist}
    say "Building (cargo build --profile $build_profile)"
    built=$(cargo build --profile "$build_profile" --bin mcp-router --bench load --message-format=json-render-diagnostics)
    executable() { # NAME
        printf '%s\n' "$built" | sed -n 's/.*"target":{[^}]*"name":"'"$1"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
    }
    router_bin=$(executable mcp-router) load_bin=$(executable load)
fi
peer_dir=$project_root/target/peers
peer_bin=$peer_dir/bin/mcp-proxy
# It does not tell its version; cargo does.
if [ -n "$peers" ] && ! grep -qs "^\"mcp-proxy $peer_version " "$peer_dir/.crates.toml"; then
    say "Building mcp-proxy $peer_version"
    cargo install --quiet --locked --root "$peer_dir" mcp-proxy --version "=$peer_version"
fi
for binary in "$router_bin" "$load_bin"; do [ -x "$binary" ] || die "this binary is missing: $binary"; done

# --- Processes ---------------------------------------------------------------------------------------------------------

work=$(mktemp -d "${TMPDIR:-/tmp}/mcp-bench.XXXXXX")
chmod 755 "$work" # nginx started by root reads its configuration as another user
: >"$work/results"
started=()
next_port=$((20000 + RANDOM % 20000))

launch() { # NAME COMMAND…: sets launched to the pid
    local name=$1
    shift
    (cd "$work" && exec "$@") >>"$work/$name.log" 2>&1 </dev/null &
    launched=$!
    started+=("$launched")
}

# Ends what was started, the last first: asked, and killed if that takes more than five seconds.
stop_all() {
    local pid tries
    while [ ${#started[@]} -gt 0 ]; do
        pid=${started[${#started[@]} - 1]} tries=0
        unset "started[${#started[@]} - 1]"
        kill -TERM "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null; do
            tries=$((tries + 1))
            [ "$tries" -lt 100 ] || kill -KILL "$pid" 2>/dev/null || true
            sleep 0.05
        done
        wait "$pid" 2>/dev/null || true
    done
}

finish() {
    local status=$?
    trap - EXIT
    stop_all
    if [ "$status" != 0 ]; then
        warn "failed; what the processes said:"
        for log in "$work"/*.log "$work"/*/nginx-error.log; do
            if [ -s "$log" ]; then
                printf '%s\n' "--- ${log##*/}" >&2
                tail -n 5 "$log" >&2
            fi
        done
    fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

take_port() { # sets port
    next_port=$((next_port + 1))
    while port_taken "$next_port"; do next_port=$((next_port + 1)); done
    port=$next_port
}

wait_for() { # WHAT COMMAND…
    local what=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || die "$what does not start"
        kill -0 "$launched" 2>/dev/null || die "$what has ended"
        sleep 0.05
    done
}

start_redis() {
    take_port
    redis_port=$port
    launch redis "$redis_bin" --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$work"
    redis_pid=$launched
    wait_for Redis port_taken "$port"
}

start_upstream() {
    take_port
    upstream_port=$port
    launch upstream "$load_bin" upstream --port "$port"
    upstream_pid=$launched
    wait_for "the upstream" port_taken "$port"
}

# Settings of all routers beside those.
router_env=()
# Limits of how many sessions there may be and how fast they may come are raised, since they are what is measured.
start_router() { # NAME [NAME=VALUE…]: sets port and launched
    local name=$1
    shift
    take_port
    local server=http://127.0.0.1:$upstream_port
    launch "$name" env -i PATH="$PATH" SERVER_PORT="$port" \
        MCP_UPSTREAMS="bench=$server/sse;bench-mcp=$server/mcp;bench-streams=$server/streams/mcp;bench-modern=$server/modern/mcp" \
        MCP_NEW_SESSION_RATE=0 MCP_MAX_SESSIONS=1000000 MCP_MAX_SESSIONS_PER_CLIENT=0 \
        ${router_env+"${router_env[@]}"} "$@" "$router_bin"
    wait_for "$name" router_is_ready "$port"
}
router_is_ready() { [ "$(http_code "http://127.0.0.1:$1/actuator/health/readiness")" = 200 ]; } # PORT

start_plain_nginx() {
    local user=""
    [ "$(id -u)" != 0 ] || user="user $(id -un) $(id -gn);"
    take_port
    mkdir -p "$work/nginx/tmp"
    cat >"$work/nginx/nginx.conf" <<END
$user
worker_processes auto;
worker_rlimit_nofile $most_files;
pid "$work/nginx/nginx.pid";
error_log "$work/nginx/nginx-error.log" warn;
events { worker_connections $most_files; }
http {
    access_log off;
    client_body_temp_path "$work/nginx/tmp/body";
    proxy_temp_path       "$work/nginx/tmp/proxy";
    fastcgi_temp_path     "$work/nginx/tmp/fastcgi";
    uwsgi_temp_path       "$work/nginx/tmp/uwsgi";
    scgi_temp_path        "$work/nginx/tmp/scgi";
    upstream mcp { server 127.0.0.1:$upstream_port; keepalive 256; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:$port;
        keepalive_requests 1000000000;
        location / {
            proxy_pass http://mcp;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 1h;
        }
    }
}
END
    launch nginx "$nginx_bin" -e "$work/nginx/nginx-error.log" -p "$work/nginx" -c "$work/nginx/nginx.conf" -g 'daemon off;'
    plain_nginx_port=$port plain_nginx_pid=$launched
    wait_for nginx port_taken "$port"
}

# The configuration of a deployment, in front of the routers of the cluster.
start_cluster_nginx() { # on|off: ip_hash; sets port and launched
    take_port
    ROUTER_PORTS="$cluster_ports" NGINX_PORT=$port IP_HASH=$1 NGINX_BIN=$nginx_bin \
        "$project_root/scripts/nginx-local.sh" render "$work/front-$1" >/dev/null
    launch "front-$1" "$nginx_bin" -e "$work/front-$1/nginx-error.log" -p "$work/front-$1" \
        -c "$work/front-$1/nginx.conf" -g 'daemon off;'
    wait_for nginx port_taken "$port"
}

start_routers_of_cluster() {
    local number
    cluster_ports="" cluster_pids=""
    for number in 1 2 3; do
        start_router "cluster-$number" REDIS_URL="redis://127.0.0.1:$redis_port" MCP_SESSION_REDIS_PREFIX=cluster
        cluster_ports="$cluster_ports $port" cluster_pids="$cluster_pids,$launched"
    done
    cluster_pids=${cluster_pids#,}
}

# nginx as a deployment configures it, with nothing behind it but the upstream.
start_front() { # off|on: the edge
    take_port
    EDGE=$1 ROUTER_PORTS=$upstream_port NGINX_PORT=$port NGINX_BIN=$nginx_bin \
        "$project_root/scripts/nginx-local.sh" render "$work/edge-$1" >/dev/null
    launch "edge-$1" "$nginx_bin" -e "$work/edge-$1/nginx-error.log" -p "$work/edge-$1" -c "$work/edge-$1/nginx.conf" \
        -g 'daemon off;'
    base=http://127.0.0.1:$port pids_of=("nginx=$launched")
    wait_for nginx port_taken "$port"
}

# Prints a token of an issuer of our own, for an hour, and leaves its keys in $work/jwks.json.
sign_token() {
    local n now text
    base64url() { openssl base64 -A | tr '+/' '-_' | tr -d =; }
    openssl genrsa -out "$work/issuer.pem" 2048 2>/dev/null
    n=$(openssl rsa -in "$work/issuer.pem" -noout -modulus)
    n=$(printf '%b' "$(printf '%s' "${n#Modulus=}" | sed 's/../\\x&/g')" | base64url)
    printf '{"keys":[{"kty":"RSA","kid":"bench","alg":"RS256","use":"sig","e":"AQAB","n":"%s"}]}' "$n" >"$work/jwks.json"
    now=$(date +%s)
    text=$(printf '{"alg":"RS256","kid":"bench","typ":"at+jwt"}' | base64url).$(printf \
        '{"iss":"https://issuer.example","sub":"bench","aud":"https://bench.example","iat":%d,"exp":%d,"scope":"mcp:use"}' \
        "$now" $((now + 3600)) | base64url)
    printf '%s.%s' "$text" "$(printf '%s' "$text" | openssl dgst -sha256 -sign "$work/issuer.pem" -binary | base64url)"
}

# Starts what SETUP needs beyond Redis and upstream, and sets where the load goes and whose CPU is its own.
start_setup() { # SETUP
    pids_of=() base="" extra=()
    case $1 in
        direct) base=http://127.0.0.1:$upstream_port ;;
        front) start_front off ;;
        front-edge) start_front on ;;
        nginx)
            start_plain_nginx
            base=http://127.0.0.1:$plain_nginx_port pids_of=("nginx=$plain_nginx_pid")
            ;;
        router)
            start_router router
            base=http://127.0.0.1:$port pids_of=("router=$launched")
            ;;
        router-redis)
            start_router router-redis REDIS_URL="redis://127.0.0.1:$redis_port" MCP_SESSION_REDIS_PREFIX=single
            base=http://127.0.0.1:$port pids_of=("router=$launched" "redis=$redis_pid")
            ;;
        router-keys)
            "$router_bin" key bench >"$work/key.out" 2>"$work/key.err"
            shown_key=$(grep -oh 'mcpr_[A-Za-z0-9_-]*' "$work/key.out" "$work/key.err" | head -n 1)
            grep -oh 'bench sha256:[0-9a-f]*' "$work/key.out" "$work/key.err" >"$work/keys"
            start_router router-keys MCP_AUTH=keys MCP_AUTH_KEYS_FILE="$work/keys"
            base=http://127.0.0.1:$port pids_of=("router=$launched")
            ;;
        router-tokens)
            shown_token=$(sign_token)
            start_router router-tokens MCP_AUTH=tokens MCP_AUTH_ISSUER=https://issuer.example MCP_AUTH_JWKS="$work/jwks.json" \
                MCP_AUTH_RESOURCE=https://bench.example
            base=http://127.0.0.1:$port pids_of=("router=$launched")
            ;;
        mcp-proxy)
            take_port
            cat >"$work/mcp-proxy.toml" <<END
[proxy]
name = "bench"
separator = "."
[proxy.listen]
host = "127.0.0.1"
port = $port
[[backends]]
name = "bench"
transport = "http"
url = "http://127.0.0.1:$upstream_port/mcp"
END
            launch mcp-proxy env -i PATH="$PATH" "$peer_bin" --config "$work/mcp-proxy.toml"
            wait_for mcp-proxy port_taken "$port"
            base=http://127.0.0.1:$port pids_of=("router=$launched") extra=(--tool bench.echo)
            ;;
        cluster | cluster-any)
            [ -n "${cluster_pids:-}" ] || start_routers_of_cluster
            if [ "$1" = cluster ]; then
                # The clients have different addresses, by which nginx sends each to its own router.
                start_cluster_nginx on
                extra=(--spread)
            else
                start_cluster_nginx off
            fi
            base=http://127.0.0.1:$port
            pids_of=("router=$cluster_pids" "nginx=$launched" "redis=$redis_pid")
            ;;
    esac
    [ "$1" != cluster ] || cluster_url=$base
    # Kept for setups that run side by side; names of variables have no hyphens.
    local key=${1//-/_}
    printf -v "base_$key" '%s' "$base"
    printf -v "pids_$key" '%s' "${pids_of[*]+"${pids_of[*]}"}"
    printf -v "extra_$key" '%s' "${extra[*]+"${extra[*]}"}"
}
start_ground() {
    cluster_pids=""
    start_redis
    start_upstream
}

# --- Measurements --------------------------------------------------------------------------------------------------------

run_load() { # MODE SETUP SESSIONS [ARG…]
    local name=$1 mode=$1 setup=$2 sessions=$3 key=${2//-/_} path base_name pids_name extra_name group
    shift 3
    case $name in
        paced) mode=sse && set -- "$@" --think "$pause" ;;
        streamed | streamable-sse) mode=streamable ;;
        stateless-list) mode=stateless && set -- "$@" --list ;;
        streamable-idle) mode=idle && set -- "$@" --transport streamable ;;
        events-idle) mode=idle && set -- "$@" --uninitialized ;;
    esac
    base_name=base_$key pids_name=pids_$key extra_name=extra_$key
    case $name:$setup in
        stateless*:direct | stateless*:nginx) path=/modern/mcp ;;
        stateless*:*) path=/mcp/bench-modern ;;
        rest:direct | rest:nginx) path=/rest ;;
        rest:*) path=/mcp/router/route/bench ;;
        events:*) path="/sse/events?every=$every" ;;
        events-idle:*) path=/sse/events ;;
        streamed:direct | streamed:nginx) path=/streams/mcp ;;
        streamed:*) path=/mcp/bench-streams ;;
        streamable-sse:*) path=/mcp/bench ;;
        streamable*:direct | streamable*:nginx) path=/mcp ;;
        streamable:mcp-proxy) path=/ ;;
        streamable*) path=/mcp/bench-mcp ;;
        *:direct | *:nginx) path=/sse ;;
        *) path=/sse/bench ;;
    esac
    local -a arguments=("$mode" --as "$name" --url "${!base_name}$path" --label "$setup" --sessions "$sessions" --pids "upstream=$upstream_pid")
    for group in ${!pids_name}; do arguments+=(--pids "$group"); done
    # shellcheck disable=SC2206  # flags without spaces
    arguments+=(${!extra_name})
    case $setup in
        router-keys) arguments+=(--header "X-API-Key: $shown_key") ;;
        router-tokens) arguments+=(--header "Authorization: Bearer $shown_token") ;;
    esac
    local outcome=""
    if ! "$load_bin" "${arguments[@]}" "$@" --out "$work/results" >"$work/load.out" 2>&1; then
        outcome=" (does not count: $(tail -n 1 "$work/load.out"))"
    fi
    cat "$work/load.out" >>"$work/load.log"
    outcome="$(sed -n -E 's/^ +(calls .*per second|opened in|recovery of broken streams)/\1/p' "$work/load.out" | tail -n 1)$outcome"
    say "round $round, $name, $setup, $sessions: $outcome"
}
window() { printf '%s\n' --seconds "$seconds" --warmup "$warmup" --payload "$payload"; }

measure_mode() { # MODE "SESSIONS…"
    local setup sessions
    wanted "$1" "$modes" || return 0
    for sessions in $2; do
        for setup in $setups; do
            case $1:$setup in streamable-sse:direct | streamable-sse:nginx | *:front*) continue ;; esac
            # shellcheck disable=SC2046  # flags without spaces
            run_load "$1" "$setup" "$sessions" $(window)
        done
    done
}

# Both configurations of nginx, in turns; memory on fresh processes.
measure_edge() {
    local setup sessions
    wanted events "$modes" || wanted events-idle "$modes" || return 0
    for setup in front front-edge; do wanted "$setup" "$setups" || return 0; done
    start_ground
    for setup in front front-edge; do start_setup "$setup"; done
    if wanted events "$modes"; then
        for sessions in $event_streams; do
            for setup in front front-edge; do
                run_load events "$setup" "$sessions" --seconds "$seconds" --warmup "$warmup"
            done
        done
    fi
    stop_all
    wanted events-idle "$modes" || return 0
    for sessions in $idle_sizes; do
        for setup in front front-edge; do
            start_ground
            start_setup "$setup"
            run_load events-idle "$setup" "$sessions"
            stop_all
        done
    done
}

# On processes that were started for these modes.
measure_calls() { # MODE…
    local mode setup
    for mode in "$@"; do wanted "$mode" "$modes" && break; done || return 0
    start_ground
    for setup in $setups; do case $setup in front*) ;; *) start_setup "$setup" ;; esac done
    for mode in "$@"; do
        case $mode in
            sse | streamable) measure_mode "$mode" "$sizes" ;;
            paced) measure_mode "$mode" "$busy_sessions" ;;
            rest | stateless | stateless-list) measure_mode "$mode" "$callers" ;;
            *) measure_mode "$mode" "$few_sizes" ;;
        esac
    done
    stop_all
}

# Memory and openings leave traces: each is measured on fresh processes.
measure_fresh() { # MODE SESSIONS [ARG…]
    local mode=$1 sessions=$2 setup
    shift 2
    wanted "$mode" "$modes" || return 0
    for setup in nginx router router-redis cluster; do
        wanted "$setup" "$setups" || continue
        [ "$mode:$setup" != churn:nginx ] || continue
        case $mode:$setup in *idle:cluster) [ "$sessions" -le "$most_idle_of_cluster" ] || continue ;; esac
        start_ground
        start_setup "$setup"
        run_load "$mode" "$setup" "$sessions" "$@"
        stop_all
    done
}

# Prints the pid of the router that clients of 127.0.0.1 are sent to.
owner_of_all() {
    local number=0 port pid
    "$load_bin" sse --url "$cluster_url/sse/bench" --sessions 1 --seconds 0.1 --warmup 0 >>"$work/load.log" 2>&1
    for port in $cluster_ports; do
        number=$((number + 1))
        pid=$(printf '%s' "$cluster_pids" | cut -d , -f "$number")
        if local_curl --max-time 5 "http://127.0.0.1:$port/actuator/prometheus" | grep -q '^mcp_router_sessions [1-9]'; then
            printf '%s' "$pid"
            return
        fi
    done
    return 1
}

measure_failover() {
    local victim
    wanted failover "$modes" && wanted cluster "$setups" || return 0
    start_ground
    start_setup cluster
    # All clients have one address, so one router has all sessions.
    # shellcheck disable=SC2034  # read by its name in run_load
    extra_cluster=""
    victim=$(owner_of_all) || die "no router has the session"
    # bash would say that it was killed.
    disown "$victim"
    run_load failover cluster "$busy_sessions" --kill "$victim" --warmup 2 --seconds "$seconds" --payload "$payload"
    stop_all
}

for ((round = 1; round <= rounds; round++)); do
    measure_calls sse paced rest streamable streamable-sse stateless stateless-list
    measure_edge
    router_env=(MCP_JSON_WAIT=0s)
    measure_calls streamed
    router_env=()
    # shellcheck disable=SC2046  # flags without spaces
    measure_fresh open "$openers" $(window)
    for idle in $idle_sizes; do
        measure_fresh idle "$idle"
        measure_fresh streamable-idle "$idle"
    done
    router_env=(MCP_SESSION_TTL=1s MCP_SESSION_UNINITIALIZED_TTL=1s)
    # shellcheck disable=SC2046  # as above
    measure_fresh churn "$openers" $(window) --settle 5
    router_env=()
    measure_failover
done

# --- The page ----------------------------------------------------------------------------------------------------------

[ -z "$results" ] || cp "$work/results" "$results"
cpu_model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
memory=$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
commit=$(git -C "$project_root" rev-parse --short HEAD 2>/dev/null || printf 'unknown')
git -C "$project_root" diff --quiet HEAD -- src crates Cargo.toml Cargo.lock 2>/dev/null || commit="$commit, changed"
[ "$page" = - ] || mkdir -p "$(dirname "$page")"
plots=()
[ -z "$html" ] || plots=(--html "$html")
"$load_bin" report --results "$work/results" --to "$page" "${plots[@]+"${plots[@]}"}" \
    --fact "date=$(date -u +%Y-%m-%d)" \
    --fact "machine=$(nproc) cores, ${cpu_model:-$(uname -m)}, $memory" \
    --fact "system=$(uname -s) $(uname -r)" \
    --fact "router=$("$router_bin" --version) ($commit), ${build_profile:+profile $build_profile}${BIN_DIR:+ready binaries}" \
    --fact "nginx=$("$nginx_bin" -v 2>&1 | sed 's/.*nginx\///')" \
    --fact "Redis=$("$redis_bin" --version | sed 's/.* v=\([^ ]*\).*/\1/'), without persistence" \
    --fact "runs=$rounds rounds of $seconds s for each figure, payload $payload bytes" \
    --fact "settings=defaults, but MCP_NEW_SESSION_RATE=0, MCP_MAX_SESSIONS=1000000 and MCP_MAX_SESSIONS_PER_CLIENT=0"
[ "$page" = - ] || say "Written: $page"
[ -z "$html" ] || say "Written: $html"
