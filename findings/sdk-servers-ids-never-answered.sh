#!/usr/bin/env bash
# @modelcontextprotocol/sdk 1.32.2 (npm), mcp 1.30.0 and 2.3.0 (PyPI), their own stdio servers.
#
# JSON-RPC 2.0 lets a request id be any JSON number, and a request must be answered. Two kinds of ids get no answer at all, no
# error either: the TypeScript server is silent for integers above 2^53-1 (9007199254740993, as 64-bit counters and snowflake ids
# are), the Python servers for integers that are written as 7.0 or 7e0 (as some JSON writers do). Each side answers what the other
# one swallows, so the same client works or hangs by the language of its server.
# Seen: ping with id 7.0: TypeScript answers id 7, both Python servers nothing. With 9007199254740993: Python answers, TypeScript
# nothing.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
{
    npm install --prefix "$folder/ts" --no-audit --no-fund --silent @modelcontextprotocol/sdk@1.32.2 &&
        for version in 1.30.0 2.3.0; do
            python3 -m venv "$folder/py$version" &&
                "$folder/py$version/bin/pip" install --quiet --disable-pip-version-check "mcp==$version"
        done
} || { echo "the packages cannot be installed"; exit 2; }
cat >"$folder/ts/server.mjs" <<'JS'
import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
await new Server({ name: "ids", version: "1" }, { capabilities: {} }).connect(new StdioServerTransport());
JS
printf '%s\n' 'from mcp.server.fastmcp import FastMCP' 'FastMCP("ids").run()' >"$folder/server1.py"
printf '%s\n' 'from mcp.server import MCPServer' 'MCPServer("ids").run()' >"$folder/server2.py"
python3 - "$folder" <<'PYTHON'
import json, queue, subprocess, sys, threading

folder = sys.argv[1]
servers = {
    "TypeScript 1.32.2": ["node", f"{folder}/ts/server.mjs"],
    "Python 1.30.0": [f"{folder}/py1.30.0/bin/python", f"{folder}/server1.py"],
    "Python 2.3.0": [f"{folder}/py2.3.0/bin/python", f"{folder}/server2.py"],
}
INITIALIZE = ('{"jsonrpc":"2.0","id":"first","method":"initialize","params":{"protocolVersion":"2025-06-18",'
              '"capabilities":{},"clientInfo":{"name":"client","version":"1"}}}')


def answers(command, number):
    """What the server answers to a ping with this id, before it answers a ping with a plain one that comes after it."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stdout], daemon=True).start()

    def say(text):
        process.stdin.write(text + "\n")
        process.stdin.flush()

    try:
        say(INITIALIZE)
        lines.get(timeout=30)
        say('{"jsonrpc":"2.0","method":"notifications/initialized"}')
        say('{"jsonrpc":"2.0","id":%s,"method":"ping"}' % number)
        say('{"jsonrpc":"2.0","id":"last","method":"ping"}')
        got = []
        while True:
            answer = json.loads(lines.get(timeout=30))
            if answer.get("id") == "last":
                return got
            if "id" in answer:
                got.append(answer["id"])
    finally:
        process.kill()
        process.wait()


big = 9007199254740993
expected = {
    "7": {"TypeScript 1.32.2": [7], "Python 1.30.0": [7], "Python 2.3.0": [7]},
    "7.0": {"TypeScript 1.32.2": [7], "Python 1.30.0": [], "Python 2.3.0": []},
    "7e0": {"TypeScript 1.32.2": [7], "Python 1.30.0": [], "Python 2.3.0": []},
    str(big): {"TypeScript 1.32.2": [], "Python 1.30.0": [big], "Python 2.3.0": [big]},
}
as_stated = True
for number, by_server in expected.items():
    for name, want in by_server.items():
        got = answers(servers[name], number)
        print(f"{name}, ping with id {number}: answered with {got if got else 'nothing'}")
        as_stated &= got == want
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
