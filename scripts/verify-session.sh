#!/usr/bin/env bash
# Verifies a deployment from the outside: one session through nginx, its messages sent to every instance in turn.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/verify-session.sh [BASE_URL]

Opens a session through nginx, initialises it, lists and calls tools, sends messages to each instance in turn and
expects each answer once on the one stream, resumes the stream on other instances, looks at the keys in Redis, at the
REST route and at health, and deletes the session. One line a check; exit code 1 with the reason at the first failure.

  BASE_URL      where nginx is, with the prefix if one is used, e.g. http://127.0.0.1:8080/mcp-bridge
                (http://mcp-bridge.local; http://127.0.0.1:8080 when that name is unknown)

Environment:
  ROUTER_PORTS  the instances, as PORT or HOST:PORT; empty: only through nginx    ("8051 8052 8053")
  INSTANCE_IDS  their ids                                                         (router-instance-1, -2, …)
  REDIS_URL     the shared store; none: skip these checks                         (redis://127.0.0.1:6379)
  SERVICE       the service to talk to                                            (mcp-server-v6)
  TIMEOUT       seconds to wait for each answer                                   (10)
  MCP_SESSION_REDIS_PREFIX, MCP_ADMIN_TOKEN  as set for the routers
END
}

case ${1:-} in
    -h | --help)
        usage
        exit
        ;;
    -*)
        usage >&2
        exit 64
        ;;
esac
[ $# -le 1 ] || { usage >&2; exit 64; }
have curl || die "curl is missing: run scripts/setup.sh"

service=${SERVICE:-mcp-server-v6}
timeout=${TIMEOUT:-10}
redis_prefix=${MCP_SESSION_REDIS_PREFIX:-mcp}
redis_url=${REDIS_URL:-$(env_file_value "$project_root/.env" REDIS_URL || printf redis://127.0.0.1:6379)}

instances=() # host:port of each
for instance in ${ROUTER_PORTS-$default_router_ports}; do
    case $instance in *:*) instances+=("$instance") ;; *) instances+=("127.0.0.1:$instance") ;; esac
done
instance_ids=()
if [ -n "${INSTANCE_IDS:-}" ]; then
    read -r -a instance_ids <<<"$INSTANCE_IDS"
else
    for ((number = 1; number <= ${#instances[@]}; number++)); do instance_ids+=("router-instance-$number"); done
fi

# What curl is told of session ids goes through files that only this user can read, never through its command line,
# which everybody sees in `ps`.
work=$(mktemp -d)
stream_pid=""
close_stream() {
    [ -z "$stream_pid" ] || kill "$stream_pid" 2>/dev/null || true
    [ -z "$stream_pid" ] || wait "$stream_pid" 2>/dev/null || true
    stream_pid=""
}
session=""
leave() {
    close_stream
    # After a failure: the session would live on until its TTL.
    [ -z "$session" ] || delete_session >/dev/null
    rm -rf "$work"
}
trap leave EXIT
trap 'exit 130' INT TERM

checks=0
ok() {
    checks=$((checks + 1))
    printf 'ok   %2d  %s\n' "$checks" "$*"
}
fail() {
    printf 'FAIL %2d  %s\n' $((checks + 1)) "$*"
    exit 1
}

# --- HTTP --------------------------------------------------------------------------------------------------------------

# Sends a request and prints the status code; the body goes to $work/answer. 000: no answer.
http() { # METHOD URL [BODY]
    printf 'url = "%s"\nrequest = "%s"\n' "$2" "$1" >"$work/request"
    # Only where it is asked for: on the other paths it would make us another principal.
    case $2 in
        */mcp/router/sessions/*)
            [ -z "${MCP_ADMIN_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$MCP_ADMIN_TOKEN" >>"$work/request"
            ;;
    esac
    : >"$work/answer"
    if [ $# = 3 ]; then
        local_curl -K "$work/request" --max-time "$timeout" --output "$work/answer" --write-out '%{http_code}' \
            --header 'Content-Type: application/json' --data-binary "$3" || true
    else
        local_curl -K "$work/request" --max-time "$timeout" --output "$work/answer" --write-out '%{http_code}' || true
    fi
}
# Through an instance where they are known; nginx forwards it only from this machine, or with the admin token.
delete_session() {
    if [ ${#instances[@]} != 0 ]; then
        http DELETE "http://${instances[0]}/mcp/router/sessions/$session"
    else
        http DELETE "$base/mcp/router/sessions/$session"
    fi
}
# The beginning of the last answer, for a reason; never with a session id.
answer() { head -c 300 "$work/answer" | tr -d '\r\n' | sed 's/[0-9a-fA-F]\{32\}/***/g'; }

# Opens an event stream into $work/stream; with CURSOR, resumes after that event.
open_stream() { # URL [CURSOR]
    {
        printf 'url = "%s"\nheader = "Accept: text/event-stream"\n' "$1"
        [ -z "${2:-}" ] || printf 'header = "Last-Event-ID: %s"\n' "$2"
    } >"$work/get"
    : >"$work/stream"
    : >"$work/head"
    curl -q --silent --noproxy '*' --no-buffer -K "$work/get" --dump-header "$work/head" --output "$work/stream" &
    stream_pid=$!
}
# Waits until a line of the stream matches PATTERN.
await() { # PATTERN WHAT
    local deadline=$((SECONDS + timeout)) code
    until grep -Eq "$1" "$work/stream"; do
        code=$(sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p' "$work/head" | tail -n 1)
        if [ -n "$code" ] && [ "$code" != 200 ]; then
            sleep 0.2
            cp "$work/stream" "$work/answer"
            fail "$2: the stream was answered with $code: $(answer)"
        fi
        kill -0 "$stream_pid" 2>/dev/null || fail "$2: the stream has ended${code:+ after $code}"
        [ "$SECONDS" -lt "$deadline" ] || fail "$2: nothing on the stream within $timeout s"
        sleep 0.05
    done
}
endpoint() { tr -d '\r' <"$work/stream" | sed -n '/^event: *endpoint/,/^$/s/^data: *//p' | head -n 1; }
cursor() { tr -d '\r' <"$work/stream" | sed -n 's/^id: *//p' | tail -n 1; }
message_for() { tr -d '\r' <"$work/stream" | grep -E "^data:.*\"id\" *: *\"$1\"" || true; } # ID

# --- MCP ---------------------------------------------------------------------------------------------------------------

requests=0
# Sends a JSON-RPC request to URL; its answer must come once on the stream, and without an error. Sets `reply`.
call() { # URL METHOD PARAMS WHAT
    local id code
    requests=$((requests + 1))
    id="verify-$$-$requests"
    code=$(http POST "$1" "{\"jsonrpc\":\"2.0\",\"id\":\"$id\",\"method\":\"$2\",\"params\":$3}")
    case $code in
        202 | 200) ;;
        000) fail "$4: no answer to the POST" ;;
        *) fail "$4: the POST was answered with $code: $(answer)" ;;
    esac
    await "^data:.*\"id\" *: *\"$id\"" "$4"
    reply=$(message_for "$id")
    [ "$(message_for "$id" | wc -l)" -eq 1 ] || fail "$4: the answer came more than once"
    case $reply in
        *\"error\"*:*\"code\"*) case $reply in *\"result\"*) ;; *) fail "$4: $(printf '%.300s' "$reply")" ;; esac ;;
    esac
}
offers() { case $tools in *"\"$1\""*) ;; *) return 1 ;; esac } # TOOL

# --- 1. Who is there -----------------------------------------------------------------------------------------------------

if [ $# = 1 ]; then
    base=${1%/}
else
    base=http://mcp-bridge.local
    status=0
    local_curl --output /dev/null --max-time 5 "$base/actuator/health" || status=$?
    [ "$status" != 6 ] || base=http://127.0.0.1:8080 # 6: the name is unknown
fi
case $base in http://?* | https://?*) ;; *) fail "not a URL: $base" ;; esac
scheme=${base%%://*}
path=${base#*://}
origin=$scheme://${path%%/*}
case $path in */*) prefix=/${path#*/} ;; *) prefix="" ;; esac

code=$(http GET "$base/actuator/health")
case $code in
    200) ok "health through $base: $(health_status "$(cat "$work/answer")")" ;;
    000) fail "nobody answers at $base. Does nginx run? (sudo systemctl status nginx, or scripts/nginx-local.sh status)" ;;
    502) fail "nginx at $base reaches no router: scripts/start-instances.sh status" ;;
    *) fail "health through $base: $code $(answer)" ;;
esac
for instance in "${instances[@]+"${instances[@]}"}"; do
    code=$(http GET "http://$instance/actuator/health/readiness")
    [ "$code" = 200 ] || fail "instance $instance is not ready (it answers $code): scripts/start-instances.sh status"
done
[ ${#instances[@]} = 0 ] || ok "all instances are ready: ${instances[*]}"

if [ "$redis_url" != none ]; then
    status=0
    pong=$(redis_query "$redis_url" PING) || status=$?
    [ "$status:$pong" = 0:PONG ] || fail "Redis at $(redis_shown "$redis_url") does not answer PING: ${pong:-no connection}"
    for id in "${instance_ids[@]+"${instance_ids[@]}"}"; do
        [ "$(redis_query "$redis_url" EXISTS "$redis_prefix:instance:$id")" = 1 ] ||
            fail "Redis has no key $redis_prefix:instance:$id: does that instance use this Redis, and this id?"
    done
    ok "Redis at $(redis_shown "$redis_url") knows the instances: ${instance_ids[*]+"${instance_ids[*]}"}"
fi

# --- 2. A session through nginx ------------------------------------------------------------------------------------------

open_stream "$base/sse/$service"
await '^data:.*sessionId=' "opening $base/sse/$service"
grep -qi '^content-type: *text/event-stream' "$work/head" || fail "the stream is not text/event-stream"
endpoint=$(endpoint)
case $endpoint in
    "$prefix"/*) ;;
    *) fail "the endpoint does not begin with $prefix/: is X-Forwarded-Prefix passed on?" ;;
esac
session=${endpoint##*sessionId=}
session=${session%%&*}
shown="${session:0:6}…"
ok "session $shown opened: $service, endpoint ${endpoint%%\?*}"

call "$origin$endpoint" initialize \
    '{"protocolVersion":"2024-11-05","capabilities":{},"clientInfo":{"name":"verify-session","version":"1"}}' initialize
server=$(printf '%s' "$reply" | sed -n 's/.*"serverInfo" *: *{[^}]*"name" *: *"\([^"]*\)".*/\1/p')
ok "initialize: answered by ${server:-the server}"
code=$(http POST "$origin$endpoint" '{"jsonrpc":"2.0","method":"notifications/initialized"}')
[ "$code" = 202 ] || fail "notifications/initialized: the POST was answered with $code: $(answer)"

call "$origin$endpoint" tools/list '{}' tools/list
tools=$reply
ok "tools/list: $(printf '%s' "$tools" | grep -o '"inputSchema"' | wc -l | tr -d ' ') tools"

# Only what reads: a check must leave nothing behind.
offers get_system_info && check_call='{"name":"get_system_info","arguments":{}}' || check_call=""
for tool in '{"name":"get_system_info","arguments":{}}' '{"name":"list_servers","arguments":{}}' \
    '{"name":"getPersonById","arguments":{"id":1}}' '{"name":"getAllPersons","arguments":{}}'; do
    name=${tool#*\"name\":\"}
    name=${name%%\"*}
    offers "$name" || continue
    call "$origin$endpoint" tools/call "$tool" "tools/call $name"
    case $reply in *'"isError":true'*) fail "tools/call $name: $(printf '%.300s' "$reply")" ;; esac
    ok "tools/call $name: $(printf '%s' "$reply" | wc -c | tr -d ' ') bytes"
done

# --- 3. Any instance -----------------------------------------------------------------------------------------------------

probe() { # URL WHAT
    if [ -n "$check_call" ]; then call "$1" tools/call "$check_call" "$2"; else call "$1" tools/list '{}' "$2"; fi
}
direct=${endpoint#"$prefix"}
for instance in "${instances[@]+"${instances[@]}"}"; do
    probe "http://$instance$direct" "POST to $instance"
    ok "POST to $instance: answered once, on the stream that is open through nginx"
done
for instance in "${instances[@]+"${instances[@]}"}"; do
    last=$(cursor)
    [ -n "$last" ] || fail "the events carry no id: the stream could not be resumed"
    close_stream
    open_stream "http://$instance/sse/$service" "$last"
    probe "$origin$endpoint" "resume at $instance"
    case $(endpoint) in "" | *"$session"*) ;; *) fail "resume at $instance: a new session was opened instead" ;; esac
    ok "stream resumed at $instance with Last-Event-ID; POST through nginx answered on it"
done
for instance in "${instances[@]+"${instances[@]}"}"; do
    code=$(http GET "http://$instance/mcp/router/sessions/$session")
    [ "$code" = 200 ] || fail "$instance does not know session $shown: $code $(answer)"
done
[ ${#instances[@]} = 0 ] || ok "every instance tells the same session from the store"

# --- 4. Redis ------------------------------------------------------------------------------------------------------------

if [ "$redis_url" != none ]; then
    key=$redis_prefix:sessions:$session
    [ "$(redis_query "$redis_url" EXISTS "$key")" = 1 ] || fail "Redis has no key $redis_prefix:sessions:$shown"
    ttl=$(redis_query "$redis_url" TTL "$key")
    [ "$ttl" -gt 0 ] || fail "the key $redis_prefix:sessions:$shown has no TTL"
    [ "$(redis_query "$redis_url" HGET "$key" service)" = "$service" ] ||
        fail "the key $redis_prefix:sessions:$shown names another service"
    ok "Redis key $redis_prefix:sessions:$shown: owner $(redis_query "$redis_url" HGET "$key" owner), TTL $ttl s"
fi

# --- 5. REST, errors, end ------------------------------------------------------------------------------------------------

code=$(http POST "$base/mcp/router/route/$service" '{"jsonrpc":"2.0","method":"tools/list","id":1}')
[ "$code" = 200 ] || fail "REST route: $code $(answer)"
grep -q '"tools"' "$work/answer" || fail "REST route: no tools in the answer: $(answer)"
ok "REST route: tools/list answered"

code=$(http POST "$origin${endpoint%%sessionId=*}sessionId=00000000000000000000000000000000" '{"jsonrpc":"2.0","id":1,"method":"ping"}')
[ "$code" = 404 ] || fail "a POST to an unknown session is answered with $code instead of 404"
ok "a POST to an unknown session is refused with 404"

code=$(delete_session)
case $code in
    200 | 202 | 204)
        code=$(http POST "$origin$endpoint" '{"jsonrpc":"2.0","id":1,"method":"ping"}')
        [ "$code" = 404 ] || fail "the deleted session still answers ($code)"
        if [ "$redis_url" != none ]; then
            [ "$(redis_query "$redis_url" EXISTS "$key")" = 0 ] || fail "Redis still has the key of the deleted session"
        fi
        ok "session $shown deleted, nothing left behind"
        ;;
    403) say "          session $shown stays until its TTL: deleting it needs this machine or MCP_ADMIN_TOKEN" ;;
    *) fail "deleting session $shown: $code $(answer)" ;;
esac
session=""

say "All $checks checks passed."
