#!/usr/bin/env bash
# Walks docs/production.md without root: what that page has for Redis, Sentinels, certificates and routers is taken from it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/production-walk.sh

Brings up the deployment of docs/production.md in a temporary folder, on ports from WALK_PORTS on, from the blocks of that page:
certificates, three Redis nodes and three Sentinels with TLS, two servers, three instances, nginx with TLS, Prometheus with the
shipped rules. Then it proves it: verify-session.sh through HTTPS, an instance killed and started again, the primary of Redis
killed, and what the alerts say. Everything ends with the script.

What needs root or a network is left out, and said: packages, users, systemd units, firewall, Alertmanager, Grafana, exporters.

Environment:
  WALK_PORTS    first of the 60 ports                    (24600)
  WALK_BIN      folder of mcp-router and mcp-server-v6   (target/debug, built if they are not there)
  WALK_KEEP     1: keep the folder with all logs         (0)
END
}
case ${1:-} in
    -h | --help)
        usage
        exit
        ;;
    ?*)
        usage >&2
        exit 64
        ;;
esac

page=$project_root/docs/production.md
first=${WALK_PORTS:-24600}
bin=${WALK_BIN:-$project_root/target/debug}
redis_server=$(find_command redis-server) || die "redis-server is missing: run scripts/setup.sh"
have openssl || die "openssl is missing"
if [ ! -x "$bin/mcp-router" ] || [ ! -x "$bin/mcp-server-v6" ]; then
    [ -z "${WALK_BIN:-}" ] || die "$bin has no mcp-router and mcp-server-v6"
    (cd "$project_root" && cargo build --bin mcp-router --bin mcp-server-v6)
fi

walk=$(mktemp -d)
pids=()
finish() {
    local code=$? pid
    for pid in "${pids[@]+"${pids[@]}"}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]+"${pids[@]}"}"; do wait "$pid" 2>/dev/null || true; done
    [ ! -f "$walk/run/nginx/nginx.pid" ] || kill "$(cat "$walk/run/nginx/nginx.pid")" 2>/dev/null || true
    if [ "$code" != 0 ] || [ "${WALK_KEEP:-0}" = 1 ]; then say "Logs and configuration: $walk"; else rm -rf "$walk"; fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# The block that stands behind `<!-- walk: NAME -->` in the page.
block() {
    awk -v mark="<!-- walk: $1 -->" '
        $0 == mark { found = 1; next }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside { print }' "$page"
}
password=$(openssl rand -hex 16) router_password=$(openssl rand -hex 16)
# What the page names, as it is here. NUMBER: of the node or Sentinel.
here() { # NUMBER
    local add=$((${1:-1} - 1))
    sed -e "s,/etc/mcp-router,$walk/router,g; s,/etc/redis,$walk/redis,g" \
        -e "s,/var/lib/redis-1,$walk/data/redis-$((add + 1)),; s,/var/lib/redis-sentinel-1,$walk/data/sentinel-$((add + 1))," \
        -e "s/^tls-port 6379/tls-port $((first + 1 + add))/; s/^tls-port 26379/tls-port $((first + 11 + add))/" \
        -e "s/127\.0\.0\.1 6379/127.0.0.1 $((first + 1))/" \
        -e "s/:26379/:$((first + 11))/; s/:26380/:$((first + 12))/; s/:26381/:$((first + 13))/" \
        -e "s/:8071/:$((first + 31))/; s/:8072/:$((first + 32))/" \
        -e "s/ROUTER-PASSWORD/$router_password/g; s/REDIS-PASSWORD/$password/g"
}
# NAME COMMAND…: in the background, its output in NAME.log; `started` is its process.
start() {
    local name=$1
    shift
    "$@" >"$walk/$name.log" 2>&1 </dev/null &
    started=$!
    pids+=("$started")
}
# Starts it again whenever it ends, as the systemd unit does; its process is in router-NUMBER.pid.
supervised() { # NUMBER
    local child
    trap 'kill "$child" 2>/dev/null; wait "$child"; exit 0' TERM
    while :; do
        (instance "$1") &
        child=$!
        echo "$child" >"$walk/router-$1.pid"
        wait "$child" || echo "ended with $?: started again"
        sleep 1
    done
}
# WHAT COMMAND…: until it is so, for a minute at most.
until_so() {
    local what=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || die "$what: not within a minute"
        sleep 0.2
    done
    say "ok    $what"
}
cli() { # PORT COMMAND…
    local port=$1
    shift
    REDISCLI_AUTH=$password redis-cli --tls --cacert "$walk/redis/tls/ca.pem" --cert "$walk/redis/tls/redis.pem" \
        --key "$walk/redis/tls/redis.key" -p "$port" "$@"
}
ask() { curl -sS --fail --noproxy '*' --max-time 5 "$@"; }

say "2. Certificates"
mkdir -p "$walk"/{router,redis/tls,data,run}
block ca | here >"$walk/ca.sh"
[ -s "$walk/ca.sh" ] || die "docs/production.md has no block for the certificates"
bash -euo pipefail "$walk/ca.sh" >"$walk/ca.log" 2>&1 || die "the certificates could not be made: $(tail -3 "$walk/ca.log")"
cp "$walk"/router/tls/{ca.pem,redis.pem,redis.key} "$walk/redis/tls/"

say "3. Redis"
for number in 1 2 3; do
    mkdir -p "$walk/data/redis-$number" "$walk/data/sentinel-$number"
    block redis | here "$number" >"$walk/redis/redis-$number.conf"
    # The last line makes a replica.
    [ "$number" != 1 ] || sed -i.all '/^replicaof/d' "$walk/redis/redis-1.conf"
    start "redis-$number" "$redis_server" "$walk/redis/redis-$number.conf"
    [ "$number" != 1 ] || primary_pid=$started
done
replicated() { cli $((first + 1)) INFO replication | grep -q 'connected_slaves:2'; }
until_so "a primary with two replicas, by TLS" replicated
for number in 1 2 3; do
    block sentinel | here "$number" >"$walk/redis/sentinel-$number.conf"
    start "sentinel-$number" "$redis_server" "$walk/redis/sentinel-$number.conf" --sentinel
done
watched() { REDISCLI_AUTH='' cli $((first + 11)) SENTINEL CKQUORUM mcp | grep -q '^OK 3' && [ "$(REDISCLI_AUTH='' cli $((first + 11)) SENTINEL REPLICAS mcp | grep -c '^name$')" = 2 ]; }
until_so "three Sentinels that know each other and the replicas" watched

say "4. The instances"
for number in 1 2; do
    start "server-$number" "$bin/mcp-server-v6" --port $((first + 30 + number))
done
block router | here >"$walk/router/router.env"
ports=()
# In a process of its own: it becomes the instance.
instance() { # NUMBER [ARG…]
    local number=$1
    shift
    set -a
    # shellcheck disable=SC1091 # made above
    . "$walk/router/router.env"
    cd "$walk"
    SERVER_PORT=$((first + 20 + number)) MCP_SESSION_INSTANCE_ID="walk:805$number" exec "$bin/mcp-router" "$@"
}
(instance 1 check) >"$walk/check.log" 2>&1 || die "mcp-router check: $(cat "$walk/check.log")"
say "ok    mcp-router check"
for number in 1 2 3; do
    start "router-$number" supervised "$number"
    ports+=("$((first + 20 + number))")
done
ready() { ask "http://127.0.0.1:$1/actuator/health/readiness"; }
for port in "${ports[@]}"; do until_so "the instance at $port is ready" ready "$port"; done

say "5. nginx"
NGINX_PORT=$((first + 40)) TLS_PORT=$((first + 43)) TLS_CERTIFICATE=$walk/router/tls/nginx.pem TLS_KEY=$walk/router/tls/nginx.key \
    ROUTER_PORTS="${ports[*]}" RUN_DIR=$walk/run LOG_DIR=$walk "$project_root/scripts/nginx-local.sh" start >"$walk/nginx-start.log" 2>&1 ||
    die "nginx: $(cat "$walk/nginx-start.log")"
export CURL_CA_BUNDLE=$walk/router/tls/ca.pem
base=https://localhost:$((first + 43))
until_so "HTTPS, with a certificate of the authority" ask "$base/mcp/router/services"

say "7. Monitoring"
if have prometheus && have promtool; then
    mkdir -p "$walk/prometheus"
    cp "$project_root"/deploy/prometheus/*.yml "$walk/prometheus/"
    sed -i.shipped "s/:8051/:${ports[0]}/; s/:8052/:${ports[1]}/; s/:8053/:${ports[2]}/; s/_interval: 15s/_interval: 1s/" "$walk/prometheus/prometheus.yml"
    promtool check config "$walk/prometheus/prometheus.yml" >"$walk/promtool.log" 2>&1 || die "promtool: $(cat "$walk/promtool.log")"
    start prometheus prometheus --config.file="$walk/prometheus/prometheus.yml" --storage.tsdb.path="$walk/data/prometheus" \
        --web.listen-address="127.0.0.1:$((first + 50))"
    query() { # EXPRESSION VALUE
        ask --data-urlencode "query=$1" "http://127.0.0.1:$((first + 50))/api/v1/query" | grep -q "\"$2\"\]"
    }
    until_so "Prometheus sees three instances that are ready" query 'sum(mcp_router_phase{phase="ready"})' 3
    until_so "each of them sees all three" query 'min(mcp_router_instances)' 3
else
    query() { :; }
    say "left out  Prometheus is not installed (scripts/setup.sh --monitoring)"
fi

say "8. The proof"
verify() {
    REDIS_URL=none ROUTER_PORTS="${ports[*]}" INSTANCE_IDS="walk:8051 walk:8052 walk:8053" \
        "$project_root/scripts/verify-session.sh" "$base" >"$walk/verify.log" 2>&1
}
verify || die "verify-session.sh: $(tail -3 "$walk/verify.log")"
say "ok    a session through HTTPS, its messages at each instance"
kill -KILL "$(cat "$walk/router-1.pid")"
until_so "an instance is killed, and Prometheus sees it" query 'count(up{job="mcp-router"} == 0)' 1
until_so "it is back" ready "${ports[0]}"
verify || die "verify-session.sh after the death of an instance: $(tail -3 "$walk/verify.log")"
say "ok    a session as before"
kill -KILL "$primary_pid"
wait "$primary_pid" 2>/dev/null || true
other() { [ "$(REDISCLI_AUTH='' cli $((first + 12)) SENTINEL GET-MASTER-ADDR-BY-NAME mcp | sed -n 2p)" != $((first + 1)) ]; }
until_so "the primary of Redis is killed, and another one chosen" other
for port in "${ports[@]}"; do until_so "the instance at $port is ready" ready "$port"; done
verify || die "verify-session.sh after the death of the primary: $(tail -3 "$walk/verify.log")"
say "ok    a session as before, at the other primary"
until_so "no guarantee is broken" query 'sum(mcp_router_invariant_violations_total)' 0
say "Left out, since they need root or the network: packages, users, systemd units, firewall, Alertmanager, Grafana, exporters."
