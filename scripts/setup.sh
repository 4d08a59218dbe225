#!/usr/bin/env bash
# Installs what a full deployment needs: redis-server, nginx and curl. Does nothing for what is there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/setup.sh [--tests] [--edge] [--monitoring] [--browser]

Installs redis-server, nginx and curl with apt (Debian, Ubuntu); for other systems it prints the command and exits
with 1. What is installed already is left alone, and no service is stopped or reconfigured.

  --tests   also what the tests need: Node.js with npm, Python 3.11 or newer with venv
  --edge    also nginx's Lua module, for nginx/nginx-edge.conf; Debian's package lets an nginx that runs load it
  --monitoring  also Prometheus with promtool, for deploy/prometheus; Debian's package starts one on port 9090
  --browser also Chromium, for the tests of the dashboard
END
}

tests=0 edge=0 monitoring=0 browser=0
for argument; do
    case $argument in
        --tests) tests=1 ;;
        --edge) edge=1 ;;
        --monitoring) monitoring=1 ;;
        --browser) browser=1 ;;
        -h | --help)
            usage
            exit
            ;;
        *)
            usage >&2
            exit 64
            ;;
    esac
done

node_fits() { have node && have npm; }
python_fits() { have python3 && python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

missing() { # prints the names of what is missing
    find_command redis-server >/dev/null || printf 'redis-server '
    find_command nginx >/dev/null || printf 'nginx '
    have curl || printf 'curl '
    [ "$edge" = 0 ] || "$project_root/scripts/nginx-local.sh" has-lua >/dev/null 2>&1 || printf 'nginx-lua '
    [ "$monitoring" = 0 ] || { have prometheus && have promtool; } || printf 'prometheus '
    [ "$browser" = 0 ] || find_command chromium >/dev/null || printf 'chromium '
    [ "$tests" = 1 ] || return 0
    node_fits || printf 'node '
    python_fits || printf 'python '
}

packages_for() { # MANAGER NAME…: the packages that bring them
    local manager=$1 name
    shift
    for name; do
        case $manager:$name in
            apt:node) printf 'nodejs npm ' ;;
            apt:python) printf 'python3 python3-venv ' ;;
            apt:nginx-lua) printf 'libnginx-mod-http-lua ' ;;
            *:nginx-lua) printf 'openresty ' ;;
            dnf:redis-server | brew:redis-server) printf 'redis ' ;;
            dnf:node) printf 'nodejs npm ' ;;
            dnf:python) printf 'python3 ' ;;
            *) printf '%s ' "$name" ;;
        esac
    done
}

read -r -a names <<<"$(missing)"
if [ ${#names[@]} = 0 ]; then
    say "Everything is installed."
    exit
fi

if ! have apt-get; then
    warn "missing: ${names[*]}. Install them with one of"
    warn "  sudo dnf install $(packages_for dnf "${names[@]}" | sed "s, *\$,,")"
    warn "  brew install $(packages_for brew "${names[@]}" | sed "s, *\$,,")"
    exit 1
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
    have sudo || die "missing: ${names[*]}. Run this as root, or install sudo"
    # Without a terminal nobody could type a password.
    if [ -t 0 ]; then as_root=(sudo); else as_root=(sudo -n); fi
fi
read -r -a packages <<<"$(packages_for apt "${names[@]}")"
apt() { "${as_root[@]+"${as_root[@]}"}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@"; }
say "Installing ${packages[*]}"
apt update
apt install --no-install-recommends "${packages[@]}"

read -r -a names <<<"$(missing)"
[ ${#names[@]} = 0 ] || die "still missing after the installation: ${names[*]}"
say "Installed."
