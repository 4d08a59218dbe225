#!/usr/bin/env bash
# The random-kill soak: kill, drain and hang at random for a while, then what was lost, how fast clients were served
# again, and whether memory grows.
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/soak.sh --minutes N [OPTION…]

Runs scripts/failover-drill.sh --mixed for N minutes. One instance is left alone, so that its memory can be watched; a
slope is printed for it and for each that lives long enough. Exit code 1 if anything was lost or came twice.
OPTIONs as there: --sessions N, --report FILE, --turns, --running, --keep, and -- for the client.
END
}

minutes=""
declare -a options=() client=(--spare-one)
while [ $# -gt 0 ]; do
    case $1 in
        --minutes)
            [ $# -ge 2 ] || { usage >&2; exit 64; }
            minutes=$2
            shift
            ;;
        --)
            shift
            client+=("$@")
            break
            ;;
        -h | --help)
            usage
            exit
            ;;
        *) options+=("$1") ;;
    esac
    shift
done
[ -n "$minutes" ] || { usage >&2; exit 64; }

exec "$(dirname "${BASH_SOURCE[0]}")/failover-drill.sh" --mixed --minutes "$minutes" \
    "${options[@]+"${options[@]}"}" -- "${client[@]}"
