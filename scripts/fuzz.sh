#!/usr/bin/env bash
# Looks for inputs from outside under which a property of fuzz/src does not hold.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: scripts/fuzz.sh [-s SECONDS] [-m] [TARGET…]

Runs each named target of fuzz/ (default: all) for SECONDS (default: 60), one after the other, from the kept corpus in
fuzz/corpus. An input under which a property fails is written to fuzz/artifacts; once the fault is fixed it belongs into
the corpus, where tests/fuzz_replay.rs finds it.

  -s SECONDS   how long each target runs
  -m           then keep of the corpus, and of what was found, a few that reach most of what all of them reach

Needs a nightly compiler (rustup toolchain install nightly), and installs cargo-fuzz if that is missing.
END
}

seconds=60 minimize=""
while getopts s:mh option; do
    case $option in
        s) seconds=$OPTARG ;;
        m) minimize=yes ;;
        h)
            usage
            exit
            ;;
        *)
            usage >&2
            exit 64
            ;;
    esac
done
shift $((OPTIND - 1))
case $seconds in '' | *[!0-9]*) die "SECONDS is a whole number, not '$seconds'" ;; esac

cd "$project_root"
have cargo || die "Rust is missing. Install it: https://rustup.rs"
cargo +nightly --version >/dev/null 2>&1 || die "a nightly compiler is missing: rustup toolchain install nightly"
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked

# The router forbids unsafe code, so that nothing would be found by the address sanitizer, which takes most of the time.
# Inputs that are longer are not richer, only slower.
with=(--sanitizer none)
limits=(-max_len=4096 -timeout=10)

# Of the corpus and of what was found: those that together reach what all of them reach, and of these, which are still hundreds,
# some of each size. Inputs with a name that a person gave them stay in any case.
most_kept=16
keep_few() { # TARGET FOUND LOG
    local corpus=fuzz/corpus/$1 few=fuzz/target/few/$1 file named step
    rm -rf "$few"
    mkdir -p "$few"
    cargo +nightly fuzz run "${with[@]}" "$1" "$few" "$corpus" "$2" -- \
        -set_cover_merge=1 -max_len=1024 >>"$3" 2>&1
    for file in "$corpus"/*; do
        case ${file##*/} in *[!0-9a-f]*) ;; *) rm "$file" ;; esac
    done
    step=$(($(find "$few" -type f | wc -l) / most_kept + 1))
    find "$few" -type f -exec wc -c {} + | sort -n | awk -v step=$step '$2 != "total" && NR % step == 0 { print $2 }' |
        while read -r file; do
            for named in "$corpus"/*; do ! cmp -s "$file" "$named" || continue 2; done
            cp "$file" "$corpus/"
        done
    rm -rf "$2"
    say "$1: $(find "$corpus" -type f | wc -l) inputs are kept"
}

targets=("$@")
if [ $# = 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do
        file=${file##*/}
        targets+=("${file%.rs}")
    done
fi
for target in "${targets[@]}"; do
    [ -f "fuzz/fuzz_targets/$target.rs" ] || die "there is no target $target"
done

# The same versions of all that the router is built of.
cp Cargo.lock fuzz/Cargo.lock

failed=()
for target in "${targets[@]}"; do
    found=fuzz/target/found/$target
    mkdir -p "$found" "fuzz/corpus/$target"
    log=$found.log
    say "$target: $seconds s"
    # What is new goes into a folder of its own: of all that a run finds, little is worth keeping for good.
    if cargo +nightly fuzz run "${with[@]}" "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -print_final_stats=1 "${limits[@]}" >"$log" 2>&1; then
        say "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs tried, nothing found"
    else
        failed+=("$target")
        tail -n 40 "$log"
        continue
    fi
    [ -z "$minimize" ] || keep_few "$target" "$found" "$log"
done
[ ${#failed[@]} = 0 ] || die "properties that do not hold: ${failed[*]}"
