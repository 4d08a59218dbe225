#!/usr/bin/env bash
# Draws docs/screenshots: the dashboard of a cluster of its own, one of whose instances was killed, in a real Chromium.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
    -h | --help)
        say "Usage: scripts/screenshots.sh   (after scripts/test.sh, which installs what it needs)"
        exit
        ;;
esac
cd "$project_root"
MCP_TEST_CHROMIUM=$(find_command chromium) || die "Chromium is missing: scripts/setup.sh --browser"
export MCP_TEST_CHROMIUM
node_packages tests/clients/browser
mkdir -p docs/screenshots
cargo test --features fault-points --test integration pictures_of_the_dashboard -- --ignored
for picture in docs/screenshots/*.png; do
    [ "$(wc -c <"$picture")" -lt 300000 ] || die "$picture is larger than 300 KB"
    say "$picture"
done
