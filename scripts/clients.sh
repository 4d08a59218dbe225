#!/usr/bin/env bash
# Lets stock clients visit a cluster, in front of stock servers, and kills an instance while the call of each is in flight.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/visits.sh
. "$(dirname "${BASH_SOURCE[0]}")/visits.sh"

usage() {
    cat <<'END'
Usage: scripts/clients.sh [--fronts stock|edge|both [--client NAME] [--transport T]] [--rounds N] [--only TEXT] [--write] [--keep]

Starts a cluster of its own (Redis, three routers, nginx that hands requests to them in turn) and behind it servers of
several makers, installs the clients that tests/clients/visits pins, and lets each of them call a tool that takes 3 s.
After 1 s an instance is killed with SIGKILL: the one that owns the session, or in every second round the one on which the
client waits. Then a table: whether the call in flight was answered,
whether the session goes on, and how often the server carried out the call. Exit code 1 when a row is worse than what
tests/clients/visits/rows.mjs expects of it.

  --fronts F     another table: each client with one server, whose calls outlive an instance, behind nginx.conf (stock),
                 nginx-edge.conf (edge) or both. The instance that serves its stream is killed N times, each time with a call of
                 1.5 s in flight; then a list of the tools and one more call
  --client NAME  with --fronts: typescript, python, rmcp, mcp-remote, framework, or all (all)
  --transport T  with --fronts: sse, streamable or mixed, which is both (mixed)
  --rounds N     kills for each row (3)
  --only TEXT    only rows whose label contains TEXT, such as "fastmcp" or "sdk 1.32.2 streamable fixture"
  --write        put the table into docs/clients.md, or with --fronts both into the two READMEs
  --keep         leave the folder with logs behind; it is left behind anyway on failure

Environment: BIN_DIR (binaries of the router and the server), or BUILD_PROFILE to build them (release). The Rust client and
server of tests/clients/rmcp are built once, into target/rmcp.
END
}

rounds=3 only="" keep=0 write=0 fronts="" client=all transport=mixed
while [ $# -gt 0 ]; do
    case $1 in
        --rounds | --only | --fronts | --client | --transport)
            [ $# -ge 2 ] || { usage >&2; exit 64; }
            printf -v "${1#--}" %s "$2"
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
case $rounds in '' | *[!0-9]* | 0) die "--rounds takes a number above 0, not: $rounds" ;; esac
case $fronts in '' | stock | edge | both) ;; *) die "--fronts takes stock, edge or both, not: $fronts" ;; esac
case $client in
    typescript | python | rmcp | mcp-remote | framework) [ -n "$fronts" ] || die "--client is for --fronts" ;;
    all) ;;
    *) die "--client takes typescript, python, rmcp, mcp-remote, framework or all, not: $client" ;;
esac
case $transport in sse | streamable | mixed) ;; *) die "--transport takes sse, streamable or mixed, not: $transport" ;; esac

# --- What is needed -----------------------------------------------------------------------------------------------------

scripts=$project_root/scripts
visits=$project_root/tests/clients/visits
"$scripts/setup.sh" --tests
case $fronts in edge | both) "$scripts/setup.sh" --edge ;; esac
newer_node
for packages in "$visits" "$project_root/tests/fixtures/conformance-server"; do node_packages "$packages"; done
case $client in
    python | framework | all)
        for packages in "$visits" "$visits/frameworks" "$visits/langchain" "$project_root/tests/clients/python"; do
            python_packages "$packages"
        done
        ;;
esac
case $client in
    rmcp | all)
        build_rmcp
        ;;
esac
# The newest client programs need it.
node_is 22 || export PATH="$own_node:$PATH"
find_binaries

# --- A cluster and servers of our own -----------------------------------------------------------------------------------

# nginx with nginx-edge.conf, beside the other one.
at_edge() {
    RUN_DIR=$folder/run-edge LOG_DIR=$folder/logs-edge NGINX_PORT=$edge_port TLS_PORT=${edge_tls_port:-} "$scripts/nginx-local.sh" "$@"
}
stop_nginx() {
    "$scripts/nginx-local.sh" stop
    at_edge stop
}

free_ports 14
# shellcheck disable=SC2086  # a list of numbers
set -- $chosen_ports
fixture=$6 everything=$7 everything_sse=$8 fastmcp=$9 fastmcp_sse=${10} rmcp=${11} edge_port=${12} tls_port=${13} edge_tls_port=${14}
export MCP_UPSTREAMS="fixture=http://127.0.0.1:$fixture/mcp;fixture-sse=http://127.0.0.1:$fixture/sse"
MCP_UPSTREAMS+=";rmcp=http://127.0.0.1:$rmcp/mcp;everything=http://127.0.0.1:$everything/mcp;everything-sse=http://127.0.0.1:$everything_sse/sse"
MCP_UPSTREAMS+=";fastmcp=http://127.0.0.1:$fastmcp/mcp;fastmcp-sse=http://127.0.0.1:$fastmcp_sse/sse"
[ -z "$fronts" ] || MCP_UPSTREAMS="v6=http://127.0.0.1:$fixture/mcp"
begin_cluster clients "$1 $2 $3" "$4" "$5"
listening=("$5" "$fixture")
if [ -n "$fronts" ]; then
    # The TypeScript SDK's server lets the calls of clients before 2025-11-25 end with their connection; this one does not.
    launch v6 "$BIN_DIR/mcp-server-v6" --port "$fixture" --drill-tools --prime-always
else
    launch fixture node "$project_root/tests/fixtures/conformance-server/server.mjs" "$fixture"
    everything_bin=$visits/node_modules/.bin/mcp-server-everything
    launch everything env PORT="$everything" node "$everything_bin" streamableHttp
    launch everything-sse env PORT="$everything_sse" node "$everything_bin" sse
    launch fastmcp "$visits/.venv/bin/python" "$visits/fastmcp_server.py" http "$fastmcp"
    launch fastmcp-sse "$visits/.venv/bin/python" "$visits/fastmcp_server.py" sse "$fastmcp_sse"
    launch rmcp "$RMCP_BIN/server" "$rmcp"
    listening+=("$everything" "$everything_sse" "$fastmcp" "$fastmcp_sse" "$rmcp")
fi
await_ports "${listening[@]}"
start_routers
if [ -n "$fronts" ]; then
    have openssl || die "openssl is missing: it makes the certificate of the clients that speak HTTP/2"
    export TLS_CERTIFICATE=$folder/certificate.pem TLS_KEY=$folder/key.pem TLS_PORT=$tls_port
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
        -keyout "$TLS_KEY" -out "$TLS_CERTIFICATE" 2>/dev/null
fi
start_nginx

declare -a options=(
    --ports "$ROUTER_PORTS" --run-dir "$RUN_DIR" --restart "'$scripts/start-instances.sh' start" --rounds "$rounds"
)
if [ -z "$fronts" ]; then
    [ "$write" = 0 ] || options+=(--write "$project_root/docs/clients.md")
    node "$visits/run.mjs" --url "http://127.0.0.1:$NGINX_PORT" --only "$only" "${options[@]}"
    exit
fi
stock=http://127.0.0.1:$NGINX_PORT edge=http://127.0.0.1:$edge_port
tls="stock=https://localhost:$tls_port edge=https://localhost:$edge_tls_port"
case $fronts in
    stock) urls="stock=$stock" ;;
    edge) urls="edge=$edge" ;;
    both) urls="stock=$stock edge=$edge" ;;
esac
[ "$fronts" = stock ] || at_edge start --edge
[ "$client" = all ] || only=$client
[ "$write" = 0 ] || options+=(--write "$project_root/README.md" --write "$project_root/README.zh-CN.md")
node "$visits/survive.mjs" --fronts "$urls" --tls "$tls" --ca "$TLS_CERTIFICATE" --only "$only" --transport "$transport" "${options[@]}"
