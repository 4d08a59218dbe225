#!/usr/bin/env bash
# Checks what stands in deploy/ with the tools that read it, as far as they are installed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/check-deploy.sh

One line for each part of deploy/: ok, or left out with what is missing. Exits with 1 if a part is wrong. Nothing is
installed, started or changed.

  Prometheus    promtool                    (Debian: prometheus)
  systemd       systemd-analyze 252         (Debian: systemd)
  logrotate     logrotate                   (Debian: logrotate)
  nftables      nft, as root                (Debian: nftables)
  Debian        shellcheck, and the files that Cargo.toml names
  Docker        docker compose              (the image itself is not built)
  Kubernetes    kubectl, kubernetes-validate (PyPI; KUBERNETES_VALIDATE names it)
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

cd "$project_root/deploy"
wrong=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# NAME COMMAND…: says ok, or what the command has said.
check() {
    local name=$1
    shift
    if "$@" >"$scratch/out" 2>&1; then
        say "ok        $name"
    else
        wrong=1
        warn "WRONG     $name: $*"
        sed 's/^/          /' "$scratch/out" >&2
    fi
}
left_out() { say "left out  $1: $2"; }

if have promtool; then
    check "Prometheus, configuration" promtool check config prometheus/prometheus.yml
    check "Prometheus, rules" promtool test rules prometheus/mcp-router.rules.test.yml
else
    left_out Prometheus "promtool is not installed"
fi

if have systemd-analyze; then
    # verify wants the program to be there.
    sed 's,^ExecStart=.*,ExecStart=/bin/true,' systemd/mcp-router@.service >"$scratch/mcp-router@.service"
    check "systemd, unit" systemd-analyze verify "$scratch/mcp-router@.service"
    check "systemd, exposure at most 2.0" systemd-analyze security --offline=true --threshold=20 "$scratch/mcp-router@.service"
else
    left_out systemd "systemd-analyze is not installed"
fi

if find_command logrotate >/dev/null; then
    # Debug mode changes nothing, and complains of a user that is not there yet.
    sed 's/mcp-router mcp-router$/root root/' logrotate/mcp-router >"$scratch/logrotate"
    chmod 644 "$scratch/logrotate"
    # shellcheck disable=SC2317 # called by check
    rotates() { "$(find_command logrotate)" -d -s "$scratch/state" "$scratch/logrotate" 2>&1 | tee "$scratch/said" && ! grep -i '^error' "$scratch/said"; }
    check logrotate rotates
else
    left_out logrotate "it is not installed"
fi

if find_command nft >/dev/null && "$(find_command nft)" list tables >/dev/null 2>&1; then
    check nftables "$(find_command nft)" -c -f nftables/mcp-router.nft
else
    left_out nftables "nft is not installed, or may not ask the kernel"
fi

if have shellcheck; then
    check "Debian, maintainer scripts" shellcheck debian/postinst debian/prerm debian/postrm
else
    left_out "Debian, maintainer scripts" "shellcheck is not installed"
fi
# Their sources, but for what is built.
# shellcheck disable=SC2317 # called by check
named() {
    sed -n '/^assets = \[/,/^\]/s/^ *\["\([^"]*\)".*/\1/p' "$project_root/Cargo.toml" | grep -v '^target/' |
        while read -r pattern; do
            # shellcheck disable=SC2086 # a pattern
            ls -d "$project_root"/$pattern >/dev/null || return 1
        done
}
check "Debian, files of the package" named

if docker compose version >/dev/null 2>&1; then
    check "Docker, compose.yml" docker compose -f docker/compose.yml config --quiet
else
    left_out "Docker, compose.yml" "docker compose is not installed"
fi

if have kubectl; then
    check "Kubernetes, kustomization" kubectl kustomize kubernetes -o "$scratch/all.yaml"
    validate=${KUBERNETES_VALIDATE:-kubernetes-validate}
    if have "$validate"; then
        check "Kubernetes, resources" "$validate" --strict "$scratch/all.yaml"
    else
        left_out "Kubernetes, resources" "kubernetes-validate is not installed"
    fi
else
    left_out Kubernetes "kubectl is not installed"
fi
exit "$wrong"
