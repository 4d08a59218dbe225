#!/usr/bin/env bash
# Checks what the router is built of: licences, where crates come from, which may not come in, which were withdrawn, and
# which are known to be vulnerable.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/check-supply.sh [--advisories]

cargo deny (licences, bans, sources, by deny.toml) and cargo audit (crates that were withdrawn, and the vulnerabilities of
the RustSec database) over Cargo.lock. Both are taken from target/supply, where they are installed from PyPI at first.

The database is a git repository. Where that cannot be reached, a last line says that known vulnerabilities were not looked
for, and the rest counts.

  --advisories   it must be reached, or this fails: for where releases are made

What is not looked at: crates of fuzz/ and of the clients in tests/, which are in no release; packages of npm and PyPI, which
only tests use.

Environment: SUPPLY_DATABASE, a clone of the database, which is then used as it is.
END
}

must_reach=0
case ${1:-} in
    -h | --help)
        usage
        exit
        ;;
    --advisories) must_reach=1 ;;
    ?*)
        usage >&2
        exit 64
        ;;
esac

cd "$project_root"
have cargo || die "Rust is missing. Install it: https://rustup.rs"
tools=$project_root/target/supply
install_tools() {
    have python3 || die "Python is missing: run scripts/setup.sh --tests"
    python3 -m venv --clear "$tools"
    "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
        --requirement scripts/supply.txt
}
mkdir -p target
once_per_version "$tools/.installed" scripts/supply.txt install_tools

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

deny() { # ARG…: versions that are there twice are worth a look (cargo deny check bans), and no fault
    "$tools/bin/cargo-deny" --log-level error --locked "$@" check --hide-inclusion-graph licenses bans sources
}
deny || die "deny.toml forbids this"

# What it is for is refused: a crate of this name, under this licence.
mkdir -p "$work/outside/src" "$work/outside/reqwest/src"
touch "$work/outside/src/lib.rs" "$work/outside/reqwest/src/lib.rs"
cat >"$work/outside/Cargo.toml" <<'END'
[package]
name = "outside"
version = "0.0.0"
license = "MIT"
publish = false
[dependencies]
reqwest = { path = "reqwest" }
END
printf '[package]\nname = "reqwest"\nversion = "0.0.0"\nlicense = "GPL-3.0-only"\n' >"$work/outside/reqwest/Cargo.toml"
cargo generate-lockfile --quiet --offline --manifest-path "$work/outside/Cargo.toml"
if deny --manifest-path "$work/outside/Cargo.toml" --config "$project_root/deny.toml" >"$work/told" 2>&1 ||
    ! grep -q 'bans FAILED' "$work/told" || ! grep -q 'licenses FAILED' "$work/told"; then
    cat "$work/told" >&2
    die "what may not come in was not refused: deny.toml or cargo-deny is broken"
fi

audit() { "$tools/bin/cargo-audit" audit --deny yanked "$@"; }
bounded=()
if have timeout; then bounded=(timeout 120); fi
database=${SUPPLY_DATABASE:-}
if [ -z "$database" ]; then
    database=$work/database
    # Asked for nothing: only what there is to know is fetched.
    printf 'version = 4\n' >"$work/Cargo.lock"
    if ! "${bounded[@]+"${bounded[@]}"}" "$tools/bin/cargo-audit" audit --quiet --db "$database" --file "$work/Cargo.lock" \
        >"$work/told" 2>&1; then
        database=""
        [ "$must_reach" = 0 ] || { cat "$work/told" >&2; die "the database of vulnerabilities cannot be reached"; }
    fi
fi
if [ -n "$database" ]; then
    audit --no-fetch --stale --db "$database" || die "Cargo.lock has what it must not have"
    say "checked: licences, bans, sources, withdrawn versions, known vulnerabilities"
    exit
fi

# Without it whether a version was withdrawn is still known: by the registry.
git init --quiet --initial-branch main "$work/none"
mkdir "$work/none/crates"
git -C "$work/none" -c user.name=none -c user.email=none@localhost commit --quiet --allow-empty --message none
audit --no-fetch --stale --db "$work/none" || die "Cargo.lock has what it must not have"
say "checked: licences, bans, sources, withdrawn versions"
say "NOT CHECKED: known vulnerabilities. The database (RustSec, a git repository) cannot be reached from here; elsewhere: scripts/check-supply.sh --advisories"
