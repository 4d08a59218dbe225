# The doors to this project; `just` lists them. Each is also one line to type by hand.

default:
    @just --list

# One router with a built-in MCP server and an embedded store
run *ARGS:
    cargo run --release -- {{ARGS}}

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --features fault-points -- -D warnings
    cargo clippy --workspace -- -D warnings

# All tests; installs what they need
test *ARGS:
    ./scripts/test.sh {{ARGS}}

# Licences, origins, withdrawn versions and known vulnerabilities of what the router is built of
supply *ARGS:
    ./scripts/check-supply.sh {{ARGS}}

# What must be green before a change is merged
ci:
    ./.ci/run

# Three routers, two servers, nginx on port 8080, and a check of it all
cluster:
    ./scripts/start-instances.sh start
    ./scripts/nginx-local.sh start
    ./scripts/verify-session.sh http://127.0.0.1:8080

cluster-stop:
    ./scripts/nginx-local.sh stop
    ./scripts/start-instances.sh stop
