#!/usr/bin/env bash
# A Redis of several nodes on this machine, to break it: for drills and trials, never for data.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/redis-topology.sh start sentinel | cluster FOLDER
       scripts/redis-topology.sh change FOLDER
       scripts/redis-topology.sh stop FOLDER

start   starts two nodes and three Sentinels, or three primaries of a Redis Cluster with a replica each, on free ports of
        127.0.0.1, with all their files in FOLDER, and prints the REDIS_URL
change  makes another node a primary, and returns when it is one: by turns by order (SENTINEL FAILOVER, CLUSTER FAILOVER) and
        by SIGKILL of a primary, which then comes back as a replica. Prints what was done
stop    ends all of them
END
}

[ $# -ge 2 ] || { usage >&2; exit 64; }
redis_bin=$(find_command redis-server) || die "redis-server is missing: run scripts/setup.sh"
name=drill

ask() { redis_query "redis://127.0.0.1:$1" "${@:2}"; } # PORT COMMAND…

wait_for() { # WHAT COMMAND…: until it succeeds
    local tries=0 what=$1
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || die "never: $what; see the logs in $folder"
        sleep 0.1
    done
}

launch() { # PORT: the node or Sentinel with this port
    local words=("$folder/$1.conf")
    [ ! -e "$folder/$1.sentinel" ] || words+=(--sentinel)
    "$redis_bin" "${words[@]}" >>"$folder/$1.log" 2>&1 &
    printf '%s\n' "$!" >"$folder/$1.pid"
}

configure() { # PORT LINE…
    local port=$1
    shift
    mkdir -p "$folder/$port"
    printf '%s\n' "port $port" "bind 127.0.0.1" "dir $folder/$port" 'save ""' "repl-diskless-sync-delay 0" "$@" >"$folder/$port.conf"
}

is_primary() { [ "$(ask "$1" ROLE | head -1)" = master ]; } # PORT
follows() { [ "$(ask "$1" ROLE | sed -n 4p)" = connected ]; } # PORT
is_up() { ask "$1" CLUSTER INFO | grep -q '^cluster_state:ok'; } # PORT

start_sentinel() {
    free_ports 5
    # shellcheck disable=SC2086  # a list of numbers
    set -- $chosen_ports
    configure "$1" "min-replicas-to-write 0"
    configure "$2" "replicaof 127.0.0.1 $1"
    printf '%s\n' "$1" "$2" >"$folder/nodes"
    launch "$1"
    launch "$2"
    local port
    for port in "$3" "$4" "$5"; do
        mkdir -p "$folder/$port"
        printf '%s\n' "port $port" "bind 127.0.0.1" "dir $folder/$port" "sentinel monitor $name 127.0.0.1 $1 2" \
            "sentinel down-after-milliseconds $name 1000" "sentinel failover-timeout $name 5000" >"$folder/$port.conf"
        : >"$folder/$port.sentinel"
        launch "$port"
    done
    printf '%s\n' "$3" "$4" "$5" >"$folder/sentinels"
    wait_for "a Sentinel that knows the replica" knows_replica "$3"
    printf 'redis+sentinel://127.0.0.1:%s,127.0.0.1:%s,127.0.0.1:%s/%s\n' "$3" "$4" "$5" "$name" >"$folder/url"
}

knows_replica() { ask "$1" SENTINEL REPLICAS "$name" | grep -q '^slave$'; } # PORT

# The nodes know each other from the start, by the file in which each of them keeps that.
start_cluster() {
    free_ports 12
    local ports bus all="" me other role slots number
    # shellcheck disable=SC2206  # a list of numbers
    ports=($chosen_ports)
    bus=("${ports[@]:6:6}")
    ports=("${ports[@]:0:6}")
    slots=(0-5461 5462-10922 10923-16383)
    for me in 0 1 2 3 4 5; do
        configure "${ports[me]}" "cluster-enabled yes" "cluster-config-file nodes.conf" "cluster-port ${bus[me]}" \
            "cluster-node-timeout 1500" "cluster-replica-validity-factor 0"
        for other in 0 1 2 3 4 5; do
            number=$((other % 3))
            if [ "$other" -lt 3 ]; then role="master -" all=" ${slots[other]}"; else role="slave $(node_id "$number")" all=""; fi
            [ "$other" != "$me" ] || role=myself,$role
            printf '%s 127.0.0.1:%s@%s %s 0 0 %s connected%s\n' "$(node_id "$other")" "${ports[other]}" "${bus[other]}" "$role" \
                $((number + 1)) "$all"
        done >"$folder/${ports[me]}/nodes.conf"
        printf 'vars currentEpoch 3 lastVoteEpoch 0\n' >>"$folder/${ports[me]}/nodes.conf"
        launch "${ports[me]}"
    done
    printf '%s\n' "${ports[@]}" >"$folder/nodes"
    for me in "${ports[@]}"; do wait_for "a whole cluster" is_up "$me"; done
    for me in "${ports[@]:3:3}"; do wait_for "a replica that follows" follows "$me"; done
    printf 'redis-cluster://127.0.0.1:%s,127.0.0.1:%s,127.0.0.1:%s\n' "${ports[0]}" "${ports[1]}" "${ports[2]}" >"$folder/url"
}

node_id() { printf '%040x' $(($1 + 1)); } # NUMBER

stop_all() {
    local pid_file
    for pid_file in "$folder"/*.pid; do
        [ ! -e "$pid_file" ] || kill -9 "$(cat "$pid_file")" 2>/dev/null || true
    done
}

change() {
    local turn port replicas=() sentinel pid
    turn=$(cat "$folder/turn" 2>/dev/null || printf 0)
    printf '%s\n' $((turn + 1)) >"$folder/turn"
    while read -r port; do
        is_primary "$port" || replicas+=("$port")
    done <"$folder/nodes"
    [ "${#replicas[@]}" -gt 0 ] || die "no node is a replica"
    for port in "${replicas[@]}"; do wait_for "a replica that follows" follows "$port"; done
    local old new
    new=${replicas[turn % ${#replicas[@]}]}
    old=$(ask "$new" ROLE | sed -n 3p)
    if [ $((turn % 2)) = 0 ]; then
        printf 'planned: %s for %s\n' "$new" "$old"
        if [ -e "$folder/sentinels" ]; then
            sentinel=$(head -1 "$folder/sentinels")
            wait_for "a Sentinel that does it" ask "$sentinel" SENTINEL FAILOVER "$name"
        else
            ask "$new" CLUSTER FAILOVER >/dev/null
        fi
        wait_for "another primary" is_primary "$new"
        # Sentinels tell a former primary some seconds later.
        wait_for "that the former one follows" follows "$old"
    else
        printf 'SIGKILL: %s for %s\n' "$new" "$old"
        pid=$(cat "$folder/$old.pid")
        kill -9 "$pid"
        wait_for "another primary" is_primary "$new"
        launch "$old"
        disown
        wait_for "that the former one follows" follows "$old"
    fi
}

case $1 in
    start)
        [ $# = 3 ] || { usage >&2; exit 64; }
        mkdir -p "$3"
        folder=$(absolute "$3")
        case $2 in
            sentinel | cluster) "start_$2" ;;
            *) die "there is sentinel and cluster, not: $2" ;;
        esac
        disown -a
        cat "$folder/url"
        ;;
    change | stop)
        folder=$(absolute "$2")
        if [ "$1" = stop ]; then stop_all; else change; fi
        ;;
    *)
        usage >&2
        exit 64
        ;;
esac
