"""A server on FastMCP with one tool that takes its time.

python fastmcp_server.py http|sse PORT
"""

import sys

import anyio
from fastmcp import FastMCP

transport, port = sys.argv[1:]
server: FastMCP = FastMCP("fastmcp")
carried_out: dict[str, int] = {}


@server.tool
async def slow(key: str, ms: int) -> str:
    """Waits for ms, then says how often a call with this key was carried out."""
    carried_out[key] = carried_out.get(key, 0) + 1
    await anyio.sleep(ms / 1000)
    return f"{key}: {carried_out[key]}"


server.run(transport=transport, host="127.0.0.1", port=int(port), show_banner=False)
