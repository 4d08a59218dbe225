"""The server of the matrix on a Python framework.

python server.py mcp|fastmcp PORT

mcp: the official SDK of whichever version is installed; fastmcp: FastMCP of whichever version. At /mcp.
"""

import sys
from typing import Any

import anyio
from pydantic import BaseModel

framework, port = sys.argv[1], int(sys.argv[2])
NOTE = "note://matrix"
counted: dict[str, int] = {}


class Name(BaseModel):
    name: str


if framework == "fastmcp":
    from fastmcp import Context, FastMCP

    server: Any = FastMCP("matrix")
    resource = server.resource(NOTE)
else:
    try:
        from mcp.server.mcpserver import Context, MCPServer

        server = MCPServer("matrix")
    except ImportError:
        from mcp.server.fastmcp import Context, FastMCP as MCPServer

        server = MCPServer("matrix", host="127.0.0.1", port=port)
    resource = server.resource(NOTE)


def tool(function: Any) -> Any:
    return server.tool(function) if framework == "fastmcp" else server.tool()(function)


@resource
def note() -> str:
    return "a note"


@tool
async def echo(text: str) -> str:
    """Says what it was told."""
    return f"Echo: {text}"


@tool
async def count(to: int, ctx: Context) -> str:
    """Counts, and says how far it has come."""
    for done in range(1, to + 1):
        await ctx.report_progress(done, to)
        await anyio.sleep(0.02)
    return f"counted to {to}"


@tool
async def slow(key: str, ms: int) -> str:
    """Waits, unless it is cancelled."""
    try:
        await anyio.sleep(ms / 1000)
    except BaseException:
        counted[key] = counted.get(key, 0) + 1
        raise
    return "waited"


@tool
async def cancelled(key: str) -> str:
    """How often slow calls of this key were cancelled."""
    return f"{counted.get(key, 0)} cancelled"


def is_modern(ctx: Any) -> bool:
    version = getattr(ctx, "protocol_version", None) or getattr(ctx.request_context, "protocol_version", None)
    return version is not None and str(version) >= "2026"


@tool
async def ask(ctx: Context) -> Any:
    """Asks the user for a name."""
    if is_modern(ctx):
        from mcp.types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult

        given = (ctx.input_responses or {}).get("name")
        if given is None:
            form = ElicitRequestFormParams(message="Your name?", requested_schema=Name.model_json_schema())
            return InputRequiredResult(input_requests={"name": ElicitRequest(params=form)})
        return f"Hello, {given.content['name']}"
    answer: Any = await (ctx.elicit("Your name?", Name))
    return f"Hello, {answer.data.name}"


@tool
async def change(ctx: Context) -> str:
    """The note has changed."""
    if hasattr(ctx, "notify_resource_updated"):
        await ctx.notify_resource_updated(NOTE)
    else:
        await ctx.session.send_resource_updated(NOTE)
    return "changed"


if framework == "fastmcp":
    server.run(transport="http", host="127.0.0.1", port=port, show_banner=False)
else:
    try:
        server.run(transport="streamable-http", host="127.0.0.1", port=port)
    except TypeError:
        server.run(transport="streamable-http")
