"""One visit of a stock client: it connects, lists the tools, calls one that takes its time, and then once more.

    python visit.py CLIENT URL TOOL ARGUMENTS QUICK-TOOL QUICK-ARGUMENTS

CLIENT: mcp (ClientSession of whichever `mcp` is installed, 1.x or 2.x), fastmcp, or an agent framework: openai-agents,
pydantic-ai-slim, google-adk, langchain-mcp-adapters (a session for each call). stdout gets a JSON object a line, as from
visit.mjs. VISIT_HTTP2: mcp 1.x speaks HTTP/2. VISIT_CALLS: so many slow calls, each when a line comes on stdin, after `ready`.
"""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio

name, url, tool, arguments_text, quick_tool, quick_arguments_text = sys.argv[1:]
is_sse = "sse" in urlsplit(url).path.split("/")
# A client that hangs is a result, too.
CALL_LIMIT_S = int(os.environ.get("VISIT_CALL_LIMIT_S", "60"))
CALLS = int(os.environ.get("VISIT_CALLS", "1"))


def tell(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def text_of(result: Any) -> str:
    """Frameworks hand on the result, its content, or the text alone."""
    if isinstance(result, dict) and "error" in result:
        return f"isError: {result['error']}"
    if isinstance(result, str):
        return result
    content = result if isinstance(result, list) else result["content"] if isinstance(result, dict) else result.content
    texts = [block.get("text") if isinstance(block, dict) else getattr(block, "text", None) for block in content]
    text = next(filter(None, texts), "")
    is_error = getattr(result, "is_error", None) or getattr(result, "isError", None)
    return f"isError: {text}" if is_error else text


def innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def is_http2(response: Any) -> None:
    if response.http_version != "HTTP/2":
        raise RuntimeError(f"the answer came over {response.http_version}")


def http2_client(headers: Any = None, timeout: Any = None, auth: Any = None) -> Any:
    """What the SDK would make, over HTTP/2."""
    import httpx

    timeout = timeout or httpx.Timeout(30, read=300)
    return httpx.AsyncClient(headers=headers, timeout=timeout, auth=auth, http2=True, event_hooks={"response": [is_http2]})


@asynccontextmanager
async def mcp_client():
    from mcp import ClientSession

    if is_sse:
        from mcp.client.sse import sse_client as connect
    else:
        from mcp.client import streamable_http

        names = ["streamable_http_client", "streamablehttp_client"]
        # Only the older name takes a factory.
        if os.environ.get("VISIT_HTTP2"):
            names.reverse()
        connect = next(filter(None, (getattr(streamable_http, one, None) for one in names)))
    how = {"httpx_client_factory": http2_client} if os.environ.get("VISIT_HTTP2") else {}
    async with connect(url, **how) as streams, ClientSession(*streams[:2]) as session:
        await session.initialize()
        yield session


@asynccontextmanager
async def fastmcp_client():
    from fastmcp import Client

    async with Client(url) as client:
        yield client


class Framework:
    """A framework as the functions that a visit needs."""

    def __init__(self, tools: list[Any], call_tool: Callable[[str, dict[str, Any]], Awaitable[Any]]) -> None:
        self.tools = tools
        self.call_tool = call_tool

    async def list_tools(self) -> list[Any]:
        return self.tools


@asynccontextmanager
async def openai_agents():
    from agents.mcp import MCPServerSse, MCPServerStreamableHttp

    server = (MCPServerSse if is_sse else MCPServerStreamableHttp)(
        params={"url": url}, client_session_timeout_seconds=CALL_LIMIT_S
    )
    async with server:
        yield server


@asynccontextmanager
async def pydantic_ai():
    from pydantic_ai.mcp import MCPToolset

    async with MCPToolset(url, tool_error_behavior="error") as toolset:
        yield Framework(await toolset.list_tools(), toolset.direct_call_tool)


@asynccontextmanager
async def google_adk():
    from google.adk.tools.mcp_tool import McpToolset
    from google.adk.tools.mcp_tool.mcp_session_manager import SseConnectionParams, StreamableHTTPConnectionParams

    params = SseConnectionParams if is_sse else StreamableHTTPConnectionParams
    toolset = McpToolset(connection_params=params(url=url))
    tools = {tool.name: tool for tool in await toolset.get_tools()}
    yield Framework(list(tools), lambda tool, given: tools[tool].run_async(args=given, tool_context=None))
    await toolset.close()


@asynccontextmanager
async def langchain():
    from langchain_mcp_adapters.client import MultiServerMCPClient

    transport = "sse" if is_sse else "streamable_http"
    tools = {tool.name: tool for tool in await MultiServerMCPClient({"it": {"transport": transport, "url": url}}).get_tools()}
    yield Framework(list(tools), lambda tool, given: tools[tool].ainvoke(given))


CLIENTS = {
    "mcp": mcp_client,
    "fastmcp": fastmcp_client,
    "openai-agents": openai_agents,
    "pydantic-ai-slim": pydantic_ai,
    "google-adk": google_adk,
    "langchain-mcp-adapters": langchain,
}


async def call(client: Any, tool: str, arguments: str, event: str) -> None:
    try:
        with anyio.fail_after(CALL_LIMIT_S):
            tell(event, text=text_of(await client.call_tool(tool, json.loads(arguments))))
    except Exception as error:
        tell("failed", text=innermost(error) or "no answer")


async def visit() -> None:
    async with CLIENTS[name]() as client:
        listed = await client.list_tools()
        tell("connected", tools=len(getattr(listed, "tools", listed)))
        for _ in range(CALLS):
            if CALLS > 1:
                tell("ready")
                await anyio.to_thread.run_sync(sys.stdin.readline)
            tell("calling")
            await call(client, tool, arguments_text, "answered")
        if CALLS > 1:
            with anyio.fail_after(CALL_LIMIT_S):
                await client.list_tools()
        await call(client, quick_tool, quick_arguments_text, "after")


os.environ["NO_PROXY"] = "*"
try:
    anyio.run(visit)
except BaseException as error:
    tell("failed", text=f"session: {innermost(error)}")
    sys.exit(1)
