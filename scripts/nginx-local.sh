#!/usr/bin/env bash
# Runs nginx/nginx.conf as the current user: the file that a deployment installs, with ports and paths replaced.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/nginx-local.sh start [--edge] | stop | reload | status | render DIR | has-lua

  start       write the configuration and start nginx; harmless when it runs. With --edge that of nginx/nginx-edge.conf,
              which keeps clients' streams while instances change (scripts/setup.sh --edge installs what it needs)
  stop        stop it; open streams are cut
  reload      write the configuration again and let nginx take it over
  status      whether it runs, and whether a router answers behind it
  render DIR  only write DIR/nginx.conf and the rest, and print its path. Run it with
              nginx -p DIR -c DIR/nginx.conf [-g 'daemon off;']
  has-lua     whether nginx has what --edge needs

Environment:
  NGINX_PORT     port to listen on                     (8080)
  NGINX_ADDRESS  address to listen on                  (127.0.0.1)
  ROUTER_PORTS   the instances, as PORT or HOST:PORT   ("8051 8052 8053")
  IP_HASH        on, or off for instances in turn      (on)
  EDGE           on: as --edge, also for render        (off; reload: as it was started)
  EDGE_OPTIONS   more settings for edge.lua, as Lua    ("reattach = false")
  TLS_PORT       port for HTTPS and HTTP/2, with TLS_CERTIFICATE and TLS_KEY, the paths of two PEM files
  TLS_CLIENTS    path of a PEM file: who issues the certificates that clients are asked for there
  RUN_DIR        its files go to RUN_DIR/nginx         (run)
  LOG_DIR        logs                                  (logs; for render: DIR)
  NGINX_BIN      the nginx program                     (found on PATH and in /usr/sbin)
END
}

nginx_port=${NGINX_PORT:-8080}
nginx_address=${NGINX_ADDRESS:-127.0.0.1}
router_ports=${ROUTER_PORTS:-$default_router_ports}
ip_hash=${IP_HASH:-on}
edge=${EDGE:-off}
edge_options=${EDGE_OPTIONS:-}
tls_port=${TLS_PORT:-} tls_certificate=${TLS_CERTIFICATE:-} tls_key=${TLS_KEY:-} tls_clients=${TLS_CLIENTS:-}

# Prints DIR as an absolute path, made if missing, and refuses what could not be written into the configuration.
usable_dir() { # DIR
    mkdir -p "$1"
    local path
    path=$(cd "$1" && pwd)
    case $path in
        *[\"\$\\\;\{\}]* | *$'\n'*) die "this path cannot stand in a configuration of nginx: $path" ;;
    esac
    printf '%s' "$path"
}

# Prints the lines that load the Lua module, none if nginx has it built in.
lua_modules() {
    local built folder module
    find_nginx
    built=$("$nginx_bin" -V 2>&1)
    case $built in *ngx_lua-* | *lua-nginx-module*) return ;; esac
    folder=${built##*--modules-path=}
    folder=${folder%% *}
    for module in ndk_http_module ngx_http_lua_module; do
        [ -e "$folder/$module.so" ] || die "nginx has no Lua module: run scripts/setup.sh --edge"
        printf 'load_module "%s/%s.so"; ' "$folder" "$module"
    done
}

# Writes DIR/nginx.conf and DIR/mcp-bridge.conf, and for the edge DIR/edge.lua.
render() { # DIR LOG_DIR
    local dir=$1 log_dir=$2 server servers="" user="" pem open_files connections conf=nginx.conf modules="" shutdown=10s
    case $nginx_port in '' | *[!0-9]*) die "NGINX_PORT is not a port: $nginx_port" ;; esac
    case $ip_hash in on | off) ;; *) die "IP_HASH is on or off, not: $ip_hash" ;; esac
    case $edge in on | off) ;; *) die "EDGE is on or off, not: $edge" ;; esac
    if [ -n "$tls_port" ]; then
        case $tls_port in *[!0-9]*) die "TLS_PORT is not a port: $tls_port" ;; esac
        for pem in "$tls_certificate" "$tls_key"; do
            [ -r "$pem" ] || die "TLS_PORT needs TLS_CERTIFICATE and TLS_KEY, two files that can be read"
        done
        tls_certificate=$(absolute "$tls_certificate") tls_key=$(absolute "$tls_key")
        [ -z "$tls_clients" ] || [ -r "$tls_clients" ] || die "TLS_CLIENTS is a file that can be read"
        [ -z "$tls_clients" ] || tls_clients=$(absolute "$tls_clients")
    fi
    for server in $router_ports; do
        case $server in
            *[!A-Za-z0-9.:_\[\]-]*) die "ROUTER_PORTS holds ports or host:port, not: $server" ;;
            *:*) ;;
            *[!0-9]*) die "ROUTER_PORTS holds ports or host:port, not: $server" ;;
            *) server=127.0.0.1:$server ;;
        esac
        servers="$servers $server"
    done
    [ -n "$servers" ] || die "ROUTER_PORTS names no instance"

    # As root, nginx would run its workers as another user, who may not enter this folder.
    [ "$(id -u)" != 0 ] || user="user $(id -un) $(id -gn);"
    open_files=$(ulimit -Hn)
    case $open_files in *[!0-9]*) open_files=65536 ;; esac
    [ "$open_files" -le 65536 ] || open_files=65536
    connections=$((open_files / 2))

    mkdir -p "$dir/tmp"
    rm -f "$dir/edge.lua"
    if [ "$edge" = on ]; then
        conf=nginx-edge.conf shutdown=1h
        modules=$(lua_modules)
        cp "$project_root/nginx/edge.lua" "$dir/edge.lua"
    fi
    TLS="${tls_port:+$nginx_address:$tls_port}" CERTIFICATE="$tls_certificate" KEY="$tls_key" CLIENTS="$tls_clients" DIR="$dir" \
        EDGE="$edge" EDGE_OPTIONS="$edge_options" LISTEN="$nginx_address:$nginx_port" SERVERS="$servers" IP_HASH="$ip_hash" LOG_DIR="$log_dir" awk '
        BEGIN { count = split(ENVIRON["SERVERS"], server, " ") }
        function replace_once(text, by) { sub(text, by); done[text]++ }
        /^[ \t]*listen 80;/ { replace_once("listen 80;", "listen " ENVIRON["LISTEN"] ";") }
        /^[ \t]*# tls: / {
            if (ENVIRON["TLS"] == "") { print; next }
            sub(/# tls: /, "")
            sub(/listen 443 /, "listen " ENVIRON["TLS"] " ")
            sub(/\/etc\/ssl\/certs\/mcp-bridge\.pem/, "\"" ENVIRON["CERTIFICATE"] "\"")
            sub(/\/etc\/ssl\/private\/mcp-bridge\.key/, "\"" ENVIRON["KEY"] "\"")
            print
            next
        }
        /^[ \t]*# mtls: / {
            if (ENVIRON["TLS"] == "" || ENVIRON["CLIENTS"] == "") { print; next }
            sub(/# mtls: /, "")
            sub(/\/etc\/mcp-router\/clients-ca\.pem/, "\"" ENVIRON["CLIENTS"] "\"")
            print
            next
        }
        /^lua_package_path / { done["edge"]++; print "lua_package_path \"" ENVIRON["DIR"] "/?.lua;;\";"; next }
        /^ *instances = \{/ {
            done["edge"]++
            printf "        instances = {"
            for (i = 1; i <= count; i++) printf "%s \"%s\"", (i > 1 ? "," : ""), server[i]
            print " },"
            next
        }
        /^ *ip_hash = true,/ {
            done["edge"]++
            print "        ip_hash = " (ENVIRON["IP_HASH"] == "on" ? "true" : "false") ","
            if (ENVIRON["EDGE_OPTIONS"] != "") print "        " ENVIRON["EDGE_OPTIONS"] ","
            next
        }
        /^[ \t]*ip_hash;/ { done["ip_hash"]++; if (ENVIRON["IP_HASH"] == "off") next }
        /^[ \t]*server 127\.0\.0\.1:[0-9]+ / {
            rest = $0
            sub(/^[ \t]*server 127\.0\.0\.1:[0-9]+ /, "", rest)
            if (!done["server"]++)
                for (i = 1; i <= count; i++) print "    server " server[i] " " rest
            next
        }
        /^[ \t]*(access|error)_log/ {
            start = index($0, "/var/log/nginx/")
            rest = substr($0, start + length("/var/log/nginx/"))
            end = match(rest, /[ ;]/)
            print substr($0, 1, start - 1) "\"" ENVIRON["LOG_DIR"] "/" substr(rest, 1, end - 1) "\"" substr(rest, end)
            done["log"]++
            next
        }
        { print }
        END {
            if (done["listen 80;"] != 1 || done["ip_hash"] != 1 || !done["server"] || done["log"] != 3) exit 1
            if (ENVIRON["EDGE"] == "on" && done["edge"] != 3) exit 1
        }
    ' "$project_root/nginx/$conf" >"$dir/mcp-bridge.conf" ||
        die "nginx/$conf no longer has the lines that this script replaces: listen 80, ip_hash, server, logs, settings of edge.lua"
    DIR="$dir" LOG_DIR="$log_dir" MODULES="$modules" SHUTDOWN="$shutdown" NGINX_USER="$user" NOFILE="$open_files" CONNECTIONS="$connections" awk '
        function put(name, value,    at) {
            while ((at = index($0, "@" name "@")) > 0)
                $0 = substr($0, 1, at - 1) value substr($0, at + length(name) + 2)
        }
        /^#/ { print; next }
        {
            put("DIR", ENVIRON["DIR"])
            put("LOG_DIR", ENVIRON["LOG_DIR"])
            put("USER", ENVIRON["NGINX_USER"])
            put("MODULES", ENVIRON["MODULES"])
            put("SHUTDOWN", ENVIRON["SHUTDOWN"])
            put("NOFILE", ENVIRON["NOFILE"])
            put("CONNECTIONS", ENVIRON["CONNECTIONS"])
            print
        }
    ' "$project_root/nginx/local-main.conf" >"$dir/nginx.conf"
}

find_nginx() {
    nginx_bin=${NGINX_BIN:-$(find_command nginx)} || die "nginx is not installed: run scripts/setup.sh"
}

run_nginx() { # ARG…
    "$nginx_bin" -e "$log_dir/nginx-error.log" -p "$dir" -c "$dir/nginx.conf" "$@"
}

# Prints the pid of the nginx that this script started in RUN_DIR; fails when there is none. The pid file alone proves
# nothing, its number may belong to another process by now.
running_pid() {
    local pid
    pid=$(cat "$dir/nginx.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    case $(command_line "$pid") in
        *nginx*master*"$dir/nginx.conf"*) printf '%s' "$pid" ;;
        *) return 1 ;;
    esac
}

use_run_dir() {
    local run_dir
    run_dir=$(usable_dir "${RUN_DIR:-$project_root/run}")
    dir=$(usable_dir "$run_dir/nginx")
    log_dir=$(usable_dir "${LOG_DIR:-$project_root/logs}")
}

start() {
    local pid
    if pid=$(running_pid); then
        say "nginx runs already: http://$nginx_address:$nginx_port (pid $pid)"
        return
    fi
    if port_taken "$nginx_port"; then
        die "port $nginx_port is taken ($(port_holder "$nginx_port")). Choose another: NGINX_PORT=8081 $0 start"
    fi
    render "$dir" "$log_dir"
    run_nginx -q -t || die "nginx refuses the configuration $dir/mcp-bridge.conf, see above"
    run_nginx
    say "nginx: http://$nginx_address:$nginx_port in front of $router_ports (logs in $log_dir)"
}

stop() {
    local pid tries=0
    if ! pid=$(running_pid); then
        say "nginx does not run"
        return
    fi
    kill -TERM "$pid"
    while running_pid >/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || die "nginx (pid $pid) has not ended within 10 s"
        sleep 0.1
    done
    say "nginx stopped"
}

reload() {
    local pid
    pid=$(running_pid) || die "nginx does not run: $0 start"
    [ ! -e "$dir/edge.lua" ] || edge=on
    render "$dir" "$log_dir"
    run_nginx -q -t || die "nginx refuses the configuration $dir/mcp-bridge.conf, see above; the old one stays in use"
    kill -HUP "$pid"
    say "nginx reloads"
}

status() {
    local pid
    pid=$(running_pid) || {
        say "nginx does not run"
        return 1
    }
    say "nginx runs (pid $pid); through it /actuator/health answers $(http_code "http://$nginx_address:$nginx_port/actuator/health")"
}

if [ "${1:-} ${2:-}" = "start --edge" ]; then
    edge=on
    set -- start
fi
case ${1:-} in
    start | stop | reload | status)
        [ $# = 1 ] || { usage >&2; exit 64; }
        find_nginx
        use_run_dir
        "$1"
        ;;
    render)
        [ $# = 2 ] || { usage >&2; exit 64; }
        target=$(usable_dir "$2")
        render "$target" "$(usable_dir "${LOG_DIR:-$target}")"
        say "$target/nginx.conf"
        ;;
    has-lua) lua_modules >/dev/null ;;
    -h | --help) usage ;;
    *)
        usage >&2
        exit 64
        ;;
esac
