# shellcheck shell=bash
# shellcheck disable=SC2154  # project_root is of lib.sh, keep of the script
# What clients.sh and matrix.sh share: a cluster of their own, and servers behind it, that end with the script. Sourced behind lib.sh.

# Sets BIN_DIR, and builds what it is to hold where it is not set.
find_binaries() {
    if [ -z "${BIN_DIR:-}" ]; then
        local build_profile=${BUILD_PROFILE:-release}
        have cargo || die "Rust is missing: https://rustup.rs (or set BIN_DIR)"
        (cd "$project_root" && cargo build --profile "$build_profile" --bins)
        BIN_DIR=$(absolute "${CARGO_TARGET_DIR:-$project_root/target}")/$build_profile
    fi
    export BIN_DIR
}

# Builds what tests/clients/rmcp has, and sets RMCP_BIN to where it is.
build_rmcp() {
    local rmcp_dir
    have cargo || die "Rust is missing: https://rustup.rs"
    rmcp_dir=$(absolute "${CARGO_TARGET_DIR:-$project_root/target}")/rmcp
    cargo build --quiet --locked --manifest-path "$project_root/tests/clients/rmcp/Cargo.toml" --target-dir "$rmcp_dir"
    export RMCP_BIN=$rmcp_dir/debug
}

# Makes a folder for all that runs, whose settings the scripts that are called take from the environment. At the end, of whatever kind,
# everything is stopped that was begun, and the folder goes unless something went wrong or `keep` is 1.
begin_cluster() { # NAME ROUTER-PORTS NGINX-PORT REDIS-PORT
    local redis_bin
    redis_bin=$(find_command redis-server) || die "redis-server is missing: run scripts/setup.sh"
    folder=$(mktemp -d "${TMPDIR:-/tmp}/mcp-$1.XXXXXX")
    pids=() routers_started=0 nginx_started=0
    trap end_cluster EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    export ROUTER_PORTS=$2 SERVER_PORTS="" NGINX_PORT=$3 REDIS_URL=redis://127.0.0.1:$4
    export RUN_DIR=$folder/run LOG_DIR=$folder/logs ENV_FILE=$folder/env NGINX_ADDRESS=127.0.0.1 IP_HASH=off
    unset SERVER_ADDRESS EDGE EDGE_OPTIONS TLS_PORT
    mkdir -p "$RUN_DIR" "$LOG_DIR"
    : >"$ENV_FILE"
    launch redis "$redis_bin" --port "$4" --bind 127.0.0.1 --save '' --appendonly no --dir "$folder" --daemonize no
}
end_cluster() {
    local status=$?
    trap - EXIT INT TERM
    [ "$nginx_started" = 0 ] || stop_nginx >/dev/null || true
    [ "$routers_started" = 0 ] || STOP_TIMEOUT=10 "$project_root/scripts/start-instances.sh" stop >/dev/null 2>&1 || true
    if [ ${#pids[@]} != 0 ]; then
        kill "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    if [ "$status" = 0 ] && [ "$keep" = 0 ]; then rm -rf "$folder"; else say "Logs: $folder/logs"; fi
    exit "$status"
}
stop_nginx() { "$project_root/scripts/nginx-local.sh" stop; }

# Starts COMMAND in the background, its output in a log of its own.
launch() { # NAME COMMAND…
    local name=$1
    shift
    "$@" >"$LOG_DIR/$name.log" 2>&1 &
    pids+=($!)
}
# Waits until something listens on each of them.
await_ports() { # PORT…
    local port tries
    for port in "$@"; do
        tries=0
        until port_taken "$port"; do
            tries=$((tries + 1))
            [ "$tries" -lt 300 ] || die "a server does not listen on port $port; see $LOG_DIR"
            sleep 0.1
        done
    done
}
start_routers() {
    routers_started=1
    "$project_root/scripts/start-instances.sh" start
}
start_nginx() {
    nginx_started=1
    "$project_root/scripts/nginx-local.sh" start
}
