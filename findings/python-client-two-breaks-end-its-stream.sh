#!/usr/bin/env bash
# mcp 1.30.0 and 2.3.0 (PyPI), their client over Streamable HTTP; a server of its own with sessions (MCP 2025-11-25).
#
# The client comes back for the session's own stream (the GET) when it breaks, but it counts the breaks of its whole life: the
# second one ends the stream for good, no matter how long it was well in between and what came over it. Only a stream that ends as
# HTTP wants it sets the count to 0. A silence longer than the client's read timeout (300 s where nothing is set) is a break, too.
# The session goes on and calls are answered, so that a caller does not see that the rest does not arrive any more.
# Seen with both versions, `retry: 200`: broken, then well for 5 s, then broken: 2 GETs with all their 6 notifications, and no third
# GET in the 5 s after. Broken and ended in turn: 10 GETs, with 5 breaks among them. Silent, with a read timeout of 1 s: 2 GETs.
# A call after it is answered each time.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
for version in 1.30.0 2.3.0; do
    { python3 -m venv "$folder/py$version" &&
        timeout 300 "$folder/py$version/bin/pip" install --quiet --disable-pip-version-check "mcp==$version"; } ||
        { echo "the packages cannot be installed"; exit 2; }
done
cat >"$folder/try.py" <<'PYTHON'
import asyncio, json, sys

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

version = sys.argv[1]
WAIT = 5  # for a GET that does not come; `retry` asks for it after 0.2 s
default = create_mcp_http_client().timeout


class Server:
    """Each GET is answered by the next of its streams: (seconds, notifications, how it ends)."""

    def __init__(self, streams):
        self.streams, self.gets = streams, 0
        self.over = asyncio.Event()

    async def handle(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
            message = json.loads(await reader.readexactly(length)) if length else {}
            if head.startswith("get "):
                await self.stream(writer)
            elif message.get("method") == "initialize":
                self.answer(writer, message, {
                    "protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "logging": {}},
                    "serverInfo": {"name": "breaks", "version": "1"}}, "Mcp-Session-Id: one\r\n")
            elif message.get("method") == "tools/list":
                self.answer(writer, message, {"tools": []})
            else:
                status = "202 Accepted" if message else "200 OK"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    def answer(self, writer, request, result, header=""):
        body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result})
        writer.write((f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{header}Content-Length: {len(body)}\r\n"
                      f"Connection: close\r\n\r\n{body}").encode())

    async def stream(self, writer):
        number, self.gets = self.gets, self.gets + 1
        if number == len(self.streams):
            self.over.set()
            number -= 1
        seconds, notifications, end = self.streams[number]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def event(text):
            writer.write(f"{len(text):x}\r\n{text}\r\n".encode())
            await writer.drain()

        await event(f"id: {number}\nretry: 200\ndata:\n\n")
        for count in range(notifications):
            await asyncio.sleep(seconds / notifications)
            message = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "hello"}}
            await event(f"id: {number}-{count}\ndata: {json.dumps(message)}\n\n")
        if not notifications:
            await asyncio.sleep(seconds)
        if end == "ended":
            writer.write(b"0\r\n\r\n")  # without it the answer is broken off
            await writer.drain()


async def visit(streams, read_timeout=None):
    """(GETs, notifications that arrived) of one session, from its start until the stream after the last of `streams` is
    opened, or until it is not within the time."""
    server = Server(streams)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
    arrived = 0

    async def log(_):
        nonlocal arrived
        arrived += 1

    timeout = type(default)(default.connect, read=read_timeout or default.read)
    async with create_mcp_http_client(timeout=timeout) as http:
        async with streamable_http_client(url, http_client=http) as transport:
            async with ClientSession(transport[0], transport[1], logging_callback=log) as session:
                await session.initialize()
                try:
                    lasts = sum(min(seconds, read_timeout or seconds) + 0.3 for seconds, _, _ in streams)
                    await asyncio.wait_for(server.over.wait(), lasts + WAIT)
                except asyncio.TimeoutError:
                    pass
                await asyncio.sleep(0.5)
                answered = (await session.list_tools()).tools == []
    listener.close()
    return server.gets, arrived, answered


async def main():
    cases = {
        "broken, well for 5 s, broken": ([(0.5, 1, "broken"), (5, 5, "broken")], None),
        "broken and ended in turn": ([(0.3, 0, "broken"), (0.3, 0, "ended")] * 4 + [(0.3, 0, "broken")], None),
        "silent, read timeout 1 s": ([(3, 0, "ended"), (3, 0, "ended")], 1),
    }
    expected = [(2, 6, True), (10, 0, True), (2, 0, True)]
    got = await asyncio.wait_for(asyncio.gather(*(visit(*case) for case in cases.values())), 25)
    for name, (gets, arrived, answered) in zip(cases, got):
        print(f"mcp {version}, {name}: {gets} GETs, {arrived} notifications, a call {'answered' if answered else 'lost'}")
    print(f"mcp {version}, read timeout where nothing is set: {default.read:.0f} s")
    return got == expected and default.read == 300


sys.exit(0 if asyncio.run(main()) else 1)
PYTHON
as_stated=true
for version in 1.30.0 2.3.0; do
    timeout 40 "$folder/py$version/bin/python" "$folder/try.py" "$version" || as_stated=false
done
if $as_stated; then echo "as stated"; else
    echo "this has changed"
    exit 1
fi
