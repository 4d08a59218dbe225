"""What a stock Python client gets from a server, feature by feature.

    python client.py mcp|fastmcp URL SPEC

SPEC: JSON, from rows.mjs. stdout gets one JSON object: feature -> "ok" or why not; and the version that was agreed on.
"""

import json
import sys
from contextlib import asynccontextmanager
from typing import Any

import anyio

framework, url, spec_text = sys.argv[1:]
spec = json.loads(spec_text)
STEP_S = 20
told: dict[str, str] = {}
updated = anyio.Event()


def text_of(result: Any) -> str:
    content = getattr(result, "content", result)
    return next((block.text for block in content if getattr(block, "text", None)), "")


def innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]


async def hear(message: Any) -> None:
    inner = getattr(message, "root", message)
    if getattr(inner, "method", None) == "notifications/resources/updated":
        updated.set()


async def elicit(_context: Any, params: Any) -> Any:
    from mcp.types import ElicitResult

    schema = getattr(params, "requested_schema", None) or params.requestedSchema
    return ElicitResult(action="accept", content=dict.fromkeys(schema["properties"], "Ada"))


async def fill(_message: str, response_type: Any, *_: Any) -> Any:
    """The user says "Ada" to whatever he is asked."""
    names = getattr(response_type, "__dataclass_fields__", None) or getattr(response_type, "model_fields", {})
    return response_type(**dict.fromkeys(names, "Ada"))


@asynccontextmanager
async def connected():
    if framework == "fastmcp":
        from fastmcp import Client

        async with Client(url, elicitation_handler=fill, message_handler=hear) as client:
            yield client
        return
    try:
        from mcp import Client
    except ImportError:
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        async with streamable_http_client(url) as (read, write, _):
            async with ClientSession(read, write, elicitation_callback=elicit, message_handler=hear) as session:
                session.agreed = (await session.initialize()).protocolVersion
                yield session
        return
    async with Client(url, elicitation_callback=elicit, message_handler=hear) as client:
        yield client


async def call(client: Any, name: str, arguments: dict[str, Any], **options: Any) -> str:
    return text_of(await client.call_tool(name, arguments, **options))


async def step(feature: str, attempt: Any) -> None:
    if feature not in spec:
        return
    try:
        with anyio.fail_after(STEP_S):
            told[feature] = await attempt(spec[feature]) or "ok"
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        told[feature] = innermost(error)


def expected(text: str, wanted: str) -> str:
    return "ok" if wanted in text else f"unexpected: {text[:100]}"


async def visit(client: Any) -> None:
    async def listed(wanted: str) -> str:
        tools = await client.list_tools()
        names = [tool.name for tool in getattr(tools, "tools", tools)]
        return "ok" if wanted in names else f"unexpected: {names}"

    async def called(how: dict[str, Any]) -> str:
        return expected(await call(client, how["tool"], how["arguments"]), how["expect"])

    async def progressed(how: dict[str, Any]) -> str:
        seen: list[float] = []

        async def note(progress: float, *_: Any) -> None:
            seen.append(progress)

        option = "progress_handler" if framework == "fastmcp" else "progress_callback"
        said = expected(await call(client, how["tool"], how["arguments"], **{option: note}), how["expect"])
        return said if seen else f"no progress, {said}"

    async def given_up(how: dict[str, Any]) -> str:
        # The reason why it ends does not matter: whether the server learns of it does.
        with anyio.move_on_after(1):
            await call(client, how["tool"], how["arguments"])
            return "unexpected: it was answered"
        for _ in range(100):
            if how["expect"] in await call(client, how["ask"], how["askArguments"]):
                return "ok"
            await anyio.sleep(0.1)
        return "the server does not know"

    async def updates(how: dict[str, Any]) -> str:
        session = getattr(client, "session", client)
        if told["version"] >= "2026":
            from mcp.client.subscriptions import listen

            async with listen(session, resource_subscriptions=[how["uri"]]) as heard:
                await call(client, how["tool"], how.get("arguments", {}))
                async for _ in heard:
                    return "ok"
        await session.subscribe_resource(how["uri"])
        await call(client, how["tool"], how.get("arguments", {}))
        await updated.wait()
        return "ok"

    version = getattr(client, "agreed", None) or getattr(client, "protocol_version", None)
    if version is None and framework == "fastmcp":
        version = client.initialize_result.protocolVersion
    told["version"] = str(version)
    await step("list", listed)
    await step("call", called)
    await step("progress", progressed)
    await step("ask", called)
    await step("cancel", given_up)
    await step("updates", updates)


async def main() -> None:
    try:
        with anyio.fail_after(120):
            async with connected() as client:
                await visit(client)
    except BaseException as error:
        told.setdefault("connect", innermost(error))


try:
    anyio.run(main)
finally:
    print(json.dumps(told), flush=True)
