# shellcheck shell=bash
# What the scripts share. It is sourced, not run, and keeps to what bash 3.2 (macOS) knows.

# shellcheck disable=SC2034  # used by the scripts that source this file
project_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # as above
default_router_ports="8051 8052 8053"

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    warn "$*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Prints a command's path. Debian keeps daemons in /usr/sbin, which is not on everybody's PATH.
find_command() { # NAME
    PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin" command -v "$1"
}

absolute() { # PATH
    case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$PWD" "$1" ;; esac
}

# curl for this machine: no ~/.curlrc, and no proxy from the environment between us and loopback.
local_curl() { curl -q --silent --noproxy '*' "$@"; }

# Prints the status code that URL answers with, 000 when it does not answer.
http_code() { # URL
    local_curl --output /dev/null --max-time 5 --header 'Host: localhost' --write-out '%{http_code}' "$1" || true
}

# Prints UP, DEGRADED or DOWN from an answer of /actuator/health. Its components have a status, too, and may come first:
# they are taken out.
health_status() { # BODY
    local body=$1
    body=${body#"{"} body=${body%"}"}
    while [[ $body =~ ^(.*)\{[^{}]*\}(.*)$ ]]; do body=${BASH_REMATCH[1]}${BASH_REMATCH[2]}; done
    if [[ $body =~ \"status\"[[:space:]]*:[[:space:]]*\"([A-Z_]+)\" ]]; then
        printf '%s' "${BASH_REMATCH[1]}"
    else
        printf '?'
    fi
}

# Whether something listens on PORT of this machine.
port_taken() { # PORT
    (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Prints nothing; leaves N ports on which nobody listens in chosen_ports, separated by spaces, and no port twice. They are
# below the range from which the system gives ports to outgoing connections.
free_ports() { # N
    local found=0 port
    while [ "$found" -lt "$1" ]; do
        port=$((20000 + RANDOM % 10000))
        case " ${chosen_ports:-} " in *" $port "*) continue ;; esac
        if ! port_taken "$port"; then
            chosen_ports="${chosen_ports:-} $port"
            found=$((found + 1))
        fi
    done
}

# Says in a few words who listens on PORT, as far as this user may know.
port_holder() { # PORT
    local line=""
    if have lsof; then
        line=$(lsof +c 0 -nP -iTCP:"$1" -sTCP:LISTEN 2>/dev/null | awk 'NR == 2 { print $1 ", pid " $2 }') || true
    elif have ss; then
        line=$(ss -ltnpH "sport = :$1" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1, pid \2/p' | head -n 1) || true
    fi
    printf '%s' "${line:-unknown; try: sudo lsof -i :$1}"
}

# With what a process was started; small systems have no ps.
command_line() { # PID
    if [ -r "/proc/$1/cmdline" ]; then tr '\0' ' ' <"/proc/$1/cmdline"; else ps -o args= -p "$1" 2>/dev/null; fi || true
}

# Prints what FILE (KEY=value lines, as in .env) says of NAME; fails when it says nothing.
env_file_value() { # FILE NAME
    [ -f "$1" ] || return 1
    local line value
    line=$(sed -n "s/^[[:space:]]*\(export[[:space:]][[:space:]]*\)\{0,1\}$2[[:space:]]*=[[:space:]]*//p" "$1" | tail -n 1)
    line=${line%$'\r'}
    case $line in
        \"*) value=${line#\"} value=${value%%\"*} ;;
        \'*) value=${line#\'} value=${value%%\'*} ;;
        *) value=${line%%[[:space:]]#*} value=${value%"${value##*[![:space:]]}"} ;;
    esac
    [ -n "$value" ] && printf '%s' "$value"
}

# --- Redis ---------------------------------------------------------------------------------------------------------
# Spoken directly over TCP, so that no redis-cli is needed and neither password nor session id shows in `ps`.

url_decode() {
    local text=${1//\\/\\\\}
    printf '%b' "${text//%/\\x}"
}

# Splits redis://[user[:password]@]host[:port][/db] into redis_host, redis_port, redis_user, redis_password, redis_db.
redis_parse() { # URL
    local rest=${1#redis://} authority
    [ "$rest" != "$1" ] || return 1
    rest=${rest%%\?*}
    redis_user="" redis_password="" redis_db=""
    case $rest in
        *@*)
            authority=${rest%@*} rest=${rest##*@}
            redis_user=$(url_decode "${authority%%:*}")
            case $authority in *:*) redis_password=$(url_decode "${authority#*:}") ;; esac
            ;;
    esac
    case $rest in */*) redis_db=${rest#*/} rest=${rest%%/*} ;; esac
    case $rest in
        \[*\]*) redis_host=${rest%%\]*} redis_host=${redis_host#\[} rest=${rest#*\]} ;;
        *) redis_host=${rest%%:*} ;;
    esac
    case $rest in *:*) redis_port=${rest##*:} ;; *) redis_port=6379 ;; esac
    [ -n "$redis_host" ] || redis_host=127.0.0.1
}

# The address of a Redis URL without its credentials, to be shown.
redis_shown() { # URL
    if redis_parse "$1"; then
        printf '%s:%s' "$redis_host" "$redis_port"
    else
        local path=${1##*@}
        printf '%s' "${path%%\?*}"
    fi
}

# The URL of the primary that the first Sentinel which answers names. Status as of redis_query.
redis_primary() { # URL of the form redis+sentinel://[user:password@]host[:port],host[:port]…/name[/db][?sentinel_password=…]
    local rest=${1#*://} scheme=${1%%+sentinel://*} query="" login="" name db="" host sentinel_user="" sentinel_password="" pair address
    case $rest in *\?*) query=${rest#*\?} rest=${rest%%\?*} ;; esac
    case $rest in *@*) login=${rest%@*}@ rest=${rest##*@} ;; esac
    name=${rest#*/} rest=${rest%%/*}
    case $name in */*) db=/${name#*/} name=${name%%/*} ;; esac
    for pair in ${query//&/ }; do
        case $pair in
            sentinel_user=*) sentinel_user=${pair#*=} ;;
            sentinel_password=*) sentinel_password=${pair#*=} ;;
        esac
    done
    [ -z "$sentinel_password" ] || sentinel_password=$sentinel_user:$sentinel_password@
    for host in ${rest//,/ }; do
        case $host in \[*\]:* | [!\[]*:*) ;; *) host=$host:26379 ;; esac
        address=$(redis_query "$scheme://$sentinel_password$host" SENTINEL GET-MASTER-ADDR-BY-NAME "$name") || continue
        case $address in
            *:*$'\n'*) printf '%s://%s[%s]:%s%s' "$scheme" "$login" "${address%%$'\n'*}" "${address##*$'\n'}" "$db" ;;
            *$'\n'*) printf '%s://%s%s:%s%s' "$scheme" "$login" "${address%%$'\n'*}" "${address##*$'\n'}" "$db" ;;
            *) continue ;;
        esac
        return
    done
    return 1
}

# The URL of the node of a Redis Cluster that has the key of this command (its second word), or of any that answers.
redis_node() { # URL of the form redis-cluster://[user:password@]host[:port],host[:port]… COMMAND [KEY…]
    local rest=${1#*://} scheme=${1%%-cluster://*} login="" host url reply
    shift
    rest=${rest%/0}
    case $rest in *@*) login=${rest%@*}@ rest=${rest##*@} ;; esac
    for host in ${rest//,/ }; do
        case $host in \[*\]:* | [!\[]*:*) ;; *) host=$host:6379 ;; esac
        url=$scheme://$login$host
        redis_query "$url" PING >/dev/null || continue
        # Who does not have it says where it is.
        if [ $# -gt 1 ] && reply=$(redis_query "$url" EXISTS "$2"; true) && [ "${reply%% *}" = MOVED ]; then
            url=$scheme://$login${reply##* }
        fi
        printf '%s' "$url"
        return
    done
    return 1
}

# Sends one command and prints its reply, an array one element a line. Status: 0 reply, 1 no answer, 2 refused (the
# reply is the reason).
redis_query() ( # URL COMMAND [ARG…]
    LC_ALL=C
    url=$1
    shift
    redis_send() {
        printf '*%d\r\n' $#
        local arg
        for arg; do printf '$%d\r\n%s\r\n' "${#arg}" "$arg"; done
    }
    redis_reply() {
        local line count
        IFS= read -r -t 5 line || return 1
        line=${line%$'\r'}
        case $line in
            +* | :*) printf '%s\n' "${line#?}" ;;
            -*)
                printf '%s\n' "${line#-}"
                return 2
                ;;
            '$-1' | '*-1') ;;
            '$'*)
                IFS= read -r -t 5 line || return 1
                printf '%s\n' "${line%$'\r'}"
                ;;
            '*'*)
                count=${line#?}
                while [ "$count" -gt 0 ]; do
                    redis_reply || return
                    count=$((count - 1))
                done
                ;;
            *) return 1 ;;
        esac
    }
    case $url in
        redis+sentinel://* | rediss+sentinel://*) url=$(redis_primary "$url") || return 1 ;;
        redis-cluster://* | rediss-cluster://*) url=$(redis_node "$url" "$@") || return 1 ;;
    esac
    case $url in
        rediss://*)
            have redis-cli && redis_parse "redis${url#rediss}" || return 1
            # Not on the command line, which everybody may read.
            [ -z "$redis_password" ] || export REDISCLI_AUTH=$redis_password
            # shellcheck disable=SC2086  # each is a flag and its value
            answer=$(redis-cli -h "$redis_host" -p "$redis_port" ${redis_user:+--user "$redis_user"} \
                ${redis_db:+-n "$redis_db"} --tls ${REDIS_CA_FILE:+--cacert "$REDIS_CA_FILE"} \
                ${REDIS_CERT_FILE:+--cert "$REDIS_CERT_FILE"} ${REDIS_KEY_FILE:+--key "$REDIS_KEY_FILE"} "$@" 2>/dev/null)
            [ -n "$answer" ] || return 1
            printf '%s\n' "$answer"
            return
            ;;
        redis+unix://*)
            socket=${url#redis+unix://}
            have redis-cli || return 1
            answer=$(printf '%s ' "$@" | redis-cli -s "${socket%%\?*}" 2>/dev/null) && [ -n "$answer" ] || return 1
            printf '%s\n' "$answer"
            return
            ;;
    esac
    redis_parse "$url" || return 1
    { exec 9<>"/dev/tcp/$redis_host/$redis_port"; } 2>/dev/null || return 1
    redis_fail() { # STATUS REASON
        [ -z "$2" ] || printf '%s\n' "$2"
        return "$1"
    }
    redis_ask() {
        local answer status=0
        redis_send "$@" >&9
        answer=$(redis_reply <&9) || status=$?
        [ -z "$answer" ] || printf '%s\n' "$answer"
        return "$status"
    }
    if [ -n "$redis_password" ]; then
        refusal=$(redis_ask AUTH ${redis_user:+"$redis_user"} "$redis_password") || redis_fail $? "$refusal" || return
    fi
    if [ -n "$redis_db" ]; then
        refusal=$(redis_ask SELECT "$redis_db") || redis_fail $? "$refusal" || return
    fi
    redis_ask "$@"
)

# --- Packages of the clients and servers that tests run --------------------------------------------------------------------

# Runs COMMAND unless it has already been run with FILE as it is now; STAMP remembers it.
once_per_version() { # STAMP FILE COMMAND…
    local stamp=$1 file=$2
    shift 2
    if [ "$(cat "$stamp" 2>/dev/null)" = "$(cksum <"$file")" ]; then return 0; fi
    "$@"
    cksum <"$file" >"$stamp"
}

# Installs what FOLDER's lock file names, once for each version of it.
node_packages() { # FOLDER
    once_per_version "$1/node_modules/.installed" "$1/package-lock.json" \
        npm ci --prefix "$1" --no-audit --no-fund --loglevel=error
}
python_packages() { # FOLDER
    once_per_version "$1/.venv/.installed" "$1/requirements.txt" install_into_venv "$1"
}
install_into_venv() {
    python3 -m venv --clear "$1/.venv"
    "$1/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$1/requirements.txt"
}

node_is() { node -e "process.exit(parseInt(process.versions.node) >= $1 ? 0 : 1)"; }

# Distributions carry older ones than some packages need: Node.js 22 then comes from npm, for the tests alone, and is found in
# $own_node.
newer_node() {
    own_node=$project_root/tests/clients/node_modules/.bin
    if node_is 22 || [ -x "$own_node/node" ]; then return 0; fi
    npm install --prefix "$project_root/tests/clients" --no-save --no-package-lock --no-audit --no-fund \
        --loglevel=error node@22
}
