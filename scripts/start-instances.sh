#!/usr/bin/env bash
# Runs the whole deployment but nginx on this machine: three routers that share one Redis, and two MCP servers.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/start-instances.sh start | stop | restart | rolling-restart | status | logs [PORT]

  start    build if needed, start what does not run, and wait until it is ready; harmless when all runs
  stop     ask each process to end (SIGTERM), routers first; kill what has not ended after STOP_TIMEOUT
  restart  stop, then start
  rolling-restart
           restart the routers one by one; each only when all the others are ready, so that clients notice nothing
  status   a table of processes, ports and health, with the reason where one has died (a router that hangs is killed by
           its watchdog, see MCP_WATCHDOG); exit code 1 unless all are ready
  logs     the end of the logs; in a terminal it goes on showing new lines

With PORT, only the one router or server on that port. A process that this script did not start is never touched.

Environment:
  ROUTER_PORTS     routers, named router-instance-1, -2, … in this order     ("8051 8052 8053")
  SERVER_PORTS     MCP servers; may be empty when MCP_UPSTREAMS names others ("8071 8072")
  REDIS_URL        the shared store                                          (redis://127.0.0.1:6379)
  MCP_UPSTREAMS    services behind the routers                               (mcp-server-v6 on SERVER_PORTS)
  DRILL_TOOLS=1    give the servers the tools that tests and drills use
  COUNTS_FILE      where their tool increment keeps its record                (RUN_DIR/counts)
  BUILD_PROFILE    release builds quickly, dist runs faster: for deployments (release)
  BIN_DIR          ready binaries; nothing is built then                     (target/BUILD_PROFILE)
  RUN_DIR LOG_DIR  PID files, log files                                      (run, logs)
  START_TIMEOUT    seconds until all must be ready                           (60)
  STOP_TIMEOUT     seconds until a process that does not end is killed       (40)

A file .env.PORT (such as .env.8051) holds settings of one router, .env those of all; what it sets replaces the
defaults above. All other settings of the router pass through from the environment: see .env.example.
END
}

read -r -a router_ports <<<"${ROUTER_PORTS:-$default_router_ports}"
read -r -a server_ports <<<"${SERVER_PORTS-8071 8072}"
start_timeout=${START_TIMEOUT:-60}
stop_timeout=${STOP_TIMEOUT:-40}
build_profile=${BUILD_PROFILE:-release}
bin_dir=$(absolute "${BIN_DIR:-${CARGO_TARGET_DIR:-$project_root/target}/$build_profile}")
env_file_of_all=$(absolute "${ENV_FILE:-$project_root/.env}")

# --- What there is: one router or server a port ----------------------------------------------------------------------

is_router() { # PORT
    local port
    for port in "${router_ports[@]}"; do [ "$port" != "$1" ] || return 0; done
    return 1
}
all_ports() { say "${server_ports[@]+"${server_ports[@]}"}" "${router_ports[@]}"; }
name_of() { if is_router "$1"; then printf 'router-%s' "$1"; else printf 'server-%s' "$1"; fi; }
program_of() { if is_router "$1"; then printf '%s/mcp-router' "$bin_dir"; else printf '%s/mcp-server-v6' "$bin_dir"; fi; }
pid_file() { printf '%s/%s.pid' "$run_dir" "$(name_of "$1")"; }
log_file() { printf '%s/%s.log' "$log_dir" "$(name_of "$1")"; }

# router-instance-1 for the first port, and so on.
instance_id() { # PORT
    local port number=1
    for port in "${router_ports[@]}"; do
        [ "$port" != "$1" ] || break
        number=$((number + 1))
    done
    printf 'router-instance-%s' "$number"
}

# The file that a router reads its settings from; empty when there is none.
env_file() { # PORT
    local file
    for file in "$project_root/.env.$1" "$env_file_of_all"; do
        if [ -f "$file" ]; then
            printf '%s' "$file"
            return
        fi
    done
}

# The value of a router's setting: from the environment, else its env file, else DEFAULT.
setting() { # PORT NAME DEFAULT
    local file
    if [ -n "${!2:-}" ]; then
        printf '%s' "${!2}"
    else
        file=$(env_file "$1")
        env_file_value "$file" "$2" || printf '%s' "$3"
    fi
}
redis_url() { setting "$1" REDIS_URL redis://127.0.0.1:6379; } # PORT

# mcp-server-v6=http://127.0.0.1:8071/sse,http://127.0.0.1:8072/sse
own_upstreams() {
    local port list=""
    for port in "${server_ports[@]+"${server_ports[@]}"}"; do list="$list,http://127.0.0.1:$port/sse"; done
    [ -z "$list" ] || printf 'mcp-server-v6=%s' "${list#,}"
}

base_url() { # PORT
    local address=127.0.0.1
    ! is_router "$1" || address=$(setting "$1" SERVER_ADDRESS 127.0.0.1)
    case $address in
        0.0.0.0) address=127.0.0.1 ;;
        "::" | "[::]") address="[::1]" ;;
        *:*) address="[${address//[\[\]]/}]" ;;
    esac
    printf 'http://%s:%s' "$address" "$1"
}
readiness_url() { # PORT
    if is_router "$1"; then
        printf '%s/actuator/health/readiness' "$(base_url "$1")"
    else
        printf '%s/actuator/health' "$(base_url "$1")"
    fi
}

# --- Processes ---------------------------------------------------------------------------------------------------------

# When a process began, as the system tells it: with the pid, it names one process for good.
process_start() { # PID
    if [ -r "/proc/$1/stat" ]; then
        local stat
        stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
        # The name stands in parentheses and may hold anything; after it, the state is field 1 and the start field 20.
        read -r -a stat <<<"${stat##*) }"
        [ "${stat[0]}" != Z ] || return 1
        printf '%s' "${stat[19]}"
    else
        ps -o lstart= -p "$1" 2>/dev/null
    fi
}
process_program() { # PID
    if [ -r "/proc/$1/stat" ]; then
        local path
        path=$(readlink "/proc/$1/exe") || return 1
        printf '%s' "${path% (deleted)}" # a new build has replaced the file
    else
        ps -o comm= -p "$1" 2>/dev/null
    fi
}
runs_program() { # PID PROGRAM
    if [ -r "/proc/$1/stat" ]; then
        [ "/proc/$1/exe" -ef "$2" ]
    else
        case $(process_program "$1") in "$2" | "${2##*/}") ;; *) return 1 ;; esac
    fi
}

# Prints the pid of the process that this script started for PORT; fails when it does not run. The pid alone proves
# nothing, it may belong to another process by now: start time and program must be those recorded.
running_pid() { # PORT
    local pid started program
    { read -r pid && read -r started && read -r program; } 2>/dev/null <"$(pid_file "$1").process" || return 1
    [ "$(process_start "$pid")" = "$started" ] || return 1
    [ "$(process_program "$pid")" = "$program" ] || runs_program "$pid" "$program" || return 1
    printf '%s' "$pid"
}

# NAME.pid holds the pid, for people and other tools; NAME.pid.process what proves that it is still the same process.
# Written by the process itself before it becomes the program, which changes neither its pid nor its start: a router is
# known by its record from its first moment, also when this script is killed in that moment.
record_self() { # PORT
    local pid started
    pid=$(exec sh -c 'printf "%s" "$PPID"') # bash 3.2 does not know its own pid in a subshell
    started=$(process_start "$pid") || return 1
    printf '%s\n' "$pid" "$started" "$(program_of "$1")" >"$(pid_file "$1").process"
    printf '%s\n' "$pid" >"$(pid_file "$1")"
}
# Until it has become the program, the child is a copy of this shell.
await_program() { # PORT PID
    local tries=0
    until runs_program "$2" "$(program_of "$1")"; do
        tries=$((tries + 1))
        if [ "$tries" -ge 100 ] || ! process_start "$2" >/dev/null; then return 1; fi
        sleep 0.05
    done
}
forget() { rm -f "$(pid_file "$1")" "$(pid_file "$1").process"; } # PORT

# Becomes the process of PORT; called in a subshell of its own.
exec_process() { # PORT
    local port=$1 file
    if ! is_router "$port"; then
        local -a drill=()
        [ "${DRILL_TOOLS:-}" != 1 ] || drill=(--drill-tools --counts-file "$counts_file")
        unset REDIS_URL MCP_ADMIN_TOKEN # not a server's business
        exec nohup "$(program_of "$port")" --port "$port" "${drill[@]+"${drill[@]}"}"
    fi
    file=$(env_file "$port")
    REDIS_URL=$(redis_url "$port")
    MCP_UPSTREAMS=$(setting "$port" MCP_UPSTREAMS "$(own_upstreams)")
    export REDIS_URL MCP_UPSTREAMS SERVER_PORT="$port"
    # The id must differ between the instances: of the environment, which is the same for all, it is not taken.
    unset MCP_SESSION_INSTANCE_ID
    if [ "$file" != "$project_root/.env.$port" ] || ! env_file_value "$file" MCP_SESSION_INSTANCE_ID >/dev/null; then
        MCP_SESSION_INSTANCE_ID=$(instance_id "$port")
        export MCP_SESSION_INSTANCE_ID
    fi
    if [ -n "$file" ]; then
        unset ENV_FILE
        exec nohup "$(program_of "$port")" --env-file "$file"
    fi
    exec nohup "$(program_of "$port")"
}

# Starts the process of PORT in a process group of its own, so that Ctrl-C here does not reach it.
launch() { # PORT
    local pid
    set -m
    (
        cd "$project_root"
        record_self "$1"
        exec_process "$1"
    ) >>"$(log_file "$1")" 2>&1 </dev/null &
    pid=$!
    set +m
    disown "$pid" 2>/dev/null || true
    await_program "$1" "$pid" || { show_end "$1"; return 1; }
}

show_end() { # PORT
    warn "$(name_of "$1") ended at once. The end of $(log_file "$1"):"
    tail -n 15 "$(log_file "$1")" | sed 's/^/    /' >&2
}

wait_ready() { # PORT DEADLINE
    until [ "$(http_code "$(readiness_url "$1")")" = 200 ]; do
        if ! running_pid "$1" >/dev/null; then
            forget "$1"
            show_end "$1"
            return 1
        fi
        if [ "$SECONDS" -ge "$2" ]; then
            warn "$(name_of "$1") is not ready after $start_timeout s: $(readiness_url "$1") answers" \
                "$(http_code "$(readiness_url "$1")"). See $(log_file "$1")"
            return 1
        fi
        sleep 0.2
    done
    say "  $(name_of "$1") is ready (pid $(running_pid "$1"))"
}

# --- What must be there before a start ----------------------------------------------------------------------------------

build_if_stale() { # PORT…
    local port program stale=0
    local -a sources
    if [ -z "${BIN_DIR:-}" ]; then
        for port; do
            program=$(program_of "$port")
            # The router has the server in it, too.
            sources=(crates/mcp-server-v6/src Cargo.toml Cargo.lock)
            ! is_router "$port" || sources+=(src)
            if [ ! -x "$program" ] || [ -n "$(cd "$project_root" && find "${sources[@]}" -newer "$program" | head -n 1)" ]; then
                stale=1
            fi
        done
        if [ "$stale" = 1 ] && have cargo; then
            say "Building (cargo build --profile $build_profile; the first time takes some minutes)"
            (cd "$project_root" && cargo build --profile "$build_profile" --bins)
        fi
    fi
    for port; do
        [ -x "$(program_of "$port")" ] ||
            die "$(program_of "$port") is missing. Build it with cargo build --profile $build_profile (Rust: https://rustup.rs), or set BIN_DIR"
    done
    if [ -n "${BIN_DIR:-}" ]; then
        say "Binaries: $bin_dir (BIN_DIR)"
    else
        say "Binaries: $bin_dir (BUILD_PROFILE=$build_profile)"
    fi
}

require_free_ports() { # PORT…
    local port taken=0
    for port; do
        if port_taken "$port"; then
            warn "port $port is taken by another process ($(port_holder "$port"))"
            taken=1
        fi
    done
    [ "$taken" = 0 ] || die "nothing was started. End those processes, or choose other ports: ROUTER_PORTS, SERVER_PORTS"
}

require_redis() { # PORT…
    local port url answer status checked=" "
    for port; do
        is_router "$port" || continue
        url=$(redis_url "$port")
        case $checked in *" $url "*) continue ;; esac
        checked="$checked$url "
        status=0
        answer=$(redis_query "$url" PING) || status=$?
        case $status:$answer in
            0:PONG) ;;
            2:*) die "Redis at $(redis_shown "$url") refuses us: $answer (check user and password in REDIS_URL)" ;;
            *)
                die "Redis at $(redis_shown "$url") does not answer. Install it with scripts/setup.sh; start it with
    sudo systemctl start redis-server
or, without systemd,
    (umask 077; mkdir -p ~/.mcp-redis; redis-server --daemonize yes --appendonly yes --dir ~/.mcp-redis)
or set REDIS_URL to where yours is. Its files hold session ids: nobody else must be able to read them."
                ;;
        esac
    done
}

# One start or stop at a time: two would race for ports and PID files.
lock() {
    local holder tries=0
    until mkdir "$run_dir/lock" 2>/dev/null; do
        tries=$((tries + 1))
        if [ ! -d "$run_dir/lock" ] || [ "$tries" -gt 10 ]; then die "cannot make $run_dir/lock"; fi
        [ -s "$run_dir/lock/pid" ] || sleep 0.5
        if holder=$(lock_holder "$run_dir/lock"); then die "another start or stop is under way (pid $holder)"; fi
        # Its holder is gone. Of several that see so one moves it away; should it be a new one by then, it goes back.
        mv "$run_dir/lock" "$run_dir/lock.$$" 2>/dev/null || continue
        if lock_holder "$run_dir/lock.$$" >/dev/null; then mv "$run_dir/lock.$$" "$run_dir/lock"; fi
        rm -rf "$run_dir/lock.$$"
    done
    trap 'rm -rf "$run_dir/lock"' EXIT
    printf '%s\n' $$ "$(process_start $$)" >"$run_dir/lock/pid"
}
# Prints the pid of the script that holds LOCK; fails when it is gone. The pid alone proves nothing: after a power cut it
# may be anybody's.
lock_holder() { # LOCK
    local pid="" started=""
    { read -r pid && read -r started; } 2>/dev/null <"$1/pid" || [ -n "$pid" ] || return 1
    case $pid in "" | *[!0-9]*) return 1 ;; esac
    if [ -n "$started" ]; then
        [ "$(process_start "$pid")" = "$started" ] || return 1
    fi
    case $(command_line "$pid") in *start-instances.sh*) printf '%s' "$pid" ;; *) return 1 ;; esac
}

# --- Commands -----------------------------------------------------------------------------------------------------------

# Sorts ports into the arrays routers and servers.
split() { # PORT…
    local port
    routers=() servers=()
    for port; do if is_router "$port"; then routers+=("$port"); else servers+=("$port"); fi; done
}

launch_all() { # DEADLINE PORT…
    local deadline=$1 port failed=0
    shift
    for port; do launch "$port" || failed=1; done
    for port; do ! running_pid "$port" >/dev/null || wait_ready "$port" "$deadline" || failed=1; done
    return "$failed"
}

start() { # PORT…
    local port deadline
    local -a missing=()
    for port; do
        if running_pid "$port" >/dev/null; then
            say "  $(name_of "$port") runs already (pid $(running_pid "$port"))"
        else
            missing+=("$port")
        fi
    done
    [ ${#missing[@]} != 0 ] || return 0
    require_free_ports "${missing[@]}"
    require_redis "${missing[@]}"
    build_if_stale "${missing[@]}"
    deadline=$((SECONDS + start_timeout))
    split "${missing[@]}"
    # Servers first: a router that finds its upstreams there need not wait for the next health check.
    if ! launch_all "$deadline" "${servers[@]+"${servers[@]}"}" || ! launch_all "$deadline" "${routers[@]+"${routers[@]}"}"; then
        die "not everything is ready, see above. What runs goes on: $0 status, $0 stop"
    fi
}

# Ends the processes of these ports, all at the same time.
stop_together() { # PORT…
    local port pid deadline=$((SECONDS + stop_timeout))
    for port; do
        if pid=$(running_pid "$port"); then
            kill -TERM "$pid" 2>/dev/null || true
        else
            forget "$port"
            say "  $(name_of "$port") does not run"
        fi
    done
    for port; do
        [ -e "$(pid_file "$port")" ] || continue
        while pid=$(running_pid "$port"); do
            if [ "$SECONDS" -ge "$deadline" ]; then
                warn "$(name_of "$port") (pid $pid) has not ended within $stop_timeout s and is killed"
                kill -KILL "$pid" 2>/dev/null || true
                sleep 0.2
                break
            fi
            sleep 0.1
        done
        forget "$port"
        say "  $(name_of "$port") stopped"
    done
}

# Routers before servers: they finish what is under way, and need the servers for it.
stop() { # PORT…
    split "$@"
    [ ${#routers[@]} = 0 ] || stop_together "${routers[@]}"
    [ ${#servers[@]} = 0 ] || stop_together "${servers[@]}"
}

restart() { # PORT…
    # What could keep the start from succeeding comes before the stop.
    require_redis "$@"
    build_if_stale "$@"
    stop "$@"
    start "$@"
}

# One router after the other, and never the last one that is ready.
rolling_restart() { # PORT…
    local port other deadline
    split "$@"
    [ ${#routers[@]} != 0 ] || die "only routers are restarted one by one: $(all_ports)"
    require_redis "${routers[@]}"
    build_if_stale "${routers[@]}"
    for port in "${routers[@]}"; do
        for other in "${router_ports[@]}"; do
            [ "$other" != "$port" ] || continue
            [ "$(http_code "$(readiness_url "$other")")" = 200 ] ||
                die "router-$other is not ready, so router-$port must go on serving. See: $0 status"
        done
        stop_together "$port"
        deadline=$((SECONDS + start_timeout))
        launch_all "$deadline" "$port" || die "router-$port is not ready, see above; the others were left alone"
    done
}

health() { # PORT
    local body
    if body=$(local_curl --max-time 5 --header 'Host: localhost' "$(base_url "$1")/actuator/health"); then
        health_status "$body"
    else
        printf 'no answer'
    fi
}

# Says what is known of the end of a process that was not stopped from here.
cause_of_death() { # PORT
    local pid told
    pid=$(cat "$(pid_file "$1")")
    told=$(grep -F "the router (pid $pid) has been silent" "$(log_file "$1")" 2>/dev/null | tail -n 1) || true
    if [ -n "$told" ]; then
        say "hung, and was killed by its watchdog: $told"
    else
        say "pid $pid has ended or was killed, and not by $0 stop; see $(log_file "$1")"
    fi
}

status() { # PORT…
    local port pid state ready all_ready=0
    local row='%-12s %-6s %-8s %-8s %-10s %s\n'
    # shellcheck disable=SC2059  # the format is the row above
    printf "$row" NAME PORT PID STATE HEALTH READY
    for port; do
        pid=- state=stopped health=- ready=-
        if pid=$(running_pid "$port"); then
            state=running health=$(health "$port") ready=no
            [ "$(http_code "$(readiness_url "$port")")" != 200 ] || ready=yes
        else
            pid=-
            [ ! -e "$(pid_file "$port")" ] || state=died
            ! port_taken "$port" || state=foreign
        fi
        [ "$ready" = yes ] || all_ready=1
        # shellcheck disable=SC2059
        printf "$row" "$(name_of "$port")" "$port" "$pid" "$state" "$health" "$ready"
        [ "$state" != died ] || say "             $(cause_of_death "$port")"
        [ "$state" != foreign ] || say "             port $port is taken by another process: $(port_holder "$port")"
    done
    return "$all_ready"
}

logs() { # PORT…
    local port
    local -a files=()
    for port; do [ ! -f "$(log_file "$port")" ] || files+=("$(log_file "$port")"); done
    [ ${#files[@]} != 0 ] || die "there is no log yet in $log_dir"
    if [ -t 1 ]; then tail -n 40 -F "${files[@]}"; else tail -n 100 "${files[@]}"; fi
}

# ------------------------------------------------------------------------------------------------------------------------

command=${1:-}
case $command in
    start | stop | restart | rolling-restart | status | logs) ;;
    -h | --help)
        usage
        exit
        ;;
    *)
        usage >&2
        exit 64
        ;;
esac
[ $# -le 2 ] || { usage >&2; exit 64; }
[ ${#router_ports[@]} != 0 ] || die "ROUTER_PORTS names no port"
for port in $(all_ports); do
    case $port in *[!0-9]*) die "not a port: $port (ROUTER_PORTS, SERVER_PORTS)" ;; esac
done
read -r -a ports <<<"$(all_ports)"
if [ $# = 2 ]; then
    case " ${ports[*]} " in *" $2 "*) ports=("$2") ;; *) die "no router or server has port $2, only: ${ports[*]}" ;; esac
fi

have curl || die "curl is missing: run scripts/setup.sh"
run_dir=${RUN_DIR:-$project_root/run}
log_dir=${LOG_DIR:-$project_root/logs}
mkdir -p "$run_dir" "$log_dir"
run_dir=$(cd "$run_dir" && pwd)
log_dir=$(cd "$log_dir" && pwd)
counts_file=$(absolute "${COUNTS_FILE:-$run_dir/counts}")
case $command in start | stop | restart | rolling-restart) lock ;; esac

"${command//-/_}" "${ports[@]}"
