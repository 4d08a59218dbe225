"""One MCP session: the SDK's own ClientSession over one of the SDK's own transports, nothing of the protocol redone here.

Adds a listener for server messages, a sampling handler, and bounded waits.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import httpx
from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared._httpx_utils import create_mcp_http_client

from report import Unmet, error_text, expect

NOTICE_LIMIT = 20
T = TypeVar("T")


def sampled_answer(prompt: str) -> str:
    """What the sampling handler answers: derived from the prompt, so that an echo of it does not pass."""
    return f"sampled {len(prompt)} characters: {prompt[::-1]}"


async def is_http2(response: httpx.Response) -> None:
    expect(response.http_version == "HTTP/2", f"the answer came over {response.http_version}")


def http2_client(
    headers: dict[str, str] | None = None, timeout: httpx.Timeout | None = None, auth: httpx.Auth | None = None
) -> httpx.AsyncClient:
    """What the SDK would make, over HTTP/2 and nothing else."""
    client = create_mcp_http_client(headers, timeout, auth)
    hooks = {**client.event_hooks, "response": [*client.event_hooks["response"], is_http2]}
    return httpx.AsyncClient(
        http2=True, headers=client.headers, timeout=client.timeout, auth=auth, event_hooks=hooks
    )


class Session:
    def __init__(self, call_s: float) -> None:
        # Limit of each single request, in seconds. The SDK has none of its own.
        self.call_s = call_s
        self.client: ClientSession
        self.initialized: types.InitializeResult
        self.session_id: str | None = None
        # Over Streamable HTTP the id is known after the first answer.
        self.get_id: Callable[[], str | None] = lambda: None
        self.sampled = 0
        # Errors that the SDK only reports aside (a broken stream, an answer nobody waits for).
        self.notices: list[str] = []
        self.on_notification: Callable[[types.ServerNotification], None] = lambda _: None

    async def _sample(self, _context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        self.sampled += 1
        blocks = [
            block
            for message in params.messages
            for block in (message.content if isinstance(message.content, list) else [message.content])
        ]
        prompt = "\n".join(block.text for block in blocks if isinstance(block, types.TextContent))
        answer = types.TextContent(type="text", text=sampled_answer(prompt))
        return types.CreateMessageResult(role="assistant", model="test-driver", content=answer)

    async def _handle(self, message: Any) -> None:
        if isinstance(message, types.ServerNotification):
            self.on_notification(message)
        elif isinstance(message, Exception) and len(self.notices) < NOTICE_LIMIT:
            self.notices.append(error_text(message))

    @asynccontextmanager
    async def connect(self, options: Any) -> AsyncIterator[tuple[Any, Any]]:
        """The two ends that the SDK's session speaks through."""

        def set_id(session_id: str) -> None:
            self.session_id = session_id

        http = {"headers": options.headers}
        if options.http2:
            http["httpx_client_factory"] = http2_client
        if options.transport == "sse":
            async with sse_client(options.url, on_session_created=set_id, **http) as streams:
                yield streams
        else:
            async with streamablehttp_client(options.url, **http) as (reader, writer, self.get_id):
                yield reader, writer

    async def bounded(self, what: str, work: Awaitable[T]) -> T:
        """The result of `work`, or a failure that says what did not happen in time."""
        with anyio.move_on_after(self.call_s):
            return await work
        raise Unmet(f"{what}: not within {self.call_s:g} s")

    @property
    def next_request_id(self) -> int:
        """The JSON-RPC id that the next request will carry."""
        return self.client._request_id

    async def call_raw(
        self, name: str, arguments: dict[str, Any] | None = None, **options: Any
    ) -> types.CallToolResult:
        """Calls a tool and returns its result, also when it is marked as an error."""
        return await self.bounded(name, self.client.call_tool(name, arguments or {}, **options))

    async def call(self, name: str, arguments: dict[str, Any] | None = None, **options: Any) -> str:
        """Calls a tool that must succeed; returns the text of its first content block."""
        result = await self.call_raw(name, arguments, **options)
        text = text_of(result)
        expect(not result.isError, f"{name} answered an error: {text}")
        return text

    async def ping(self) -> None:
        await self.bounded("ping", self.client.send_ping())


@asynccontextmanager
async def open_session(options: Any, **callbacks: Any) -> AsyncIterator[Session]:
    """Connects, initializes, and ends the session with the block. Enter and leave it in one task. `callbacks`: the SDK's."""
    session = Session(options.call_timeout)
    connecting = True
    try:
        with anyio.fail_after(options.call_timeout) as limit:
            async with (
                session.connect(options) as streams,
                ClientSession(
                    *streams, sampling_callback=session._sample, message_handler=session._handle, **callbacks
                ) as session.client,
            ):
                session.initialized = await session.client.initialize()
                session.session_id = session.session_id or session.get_id()
                connecting = False
                limit.deadline = math.inf
                yield session
    except TimeoutError as error:
        if connecting:
            raise Unmet(f"connect and initialize: not within {options.call_timeout:g} s") from error
        raise


def text_of(result: types.CallToolResult) -> str:
    return next((block.text for block in result.content if isinstance(block, types.TextContent)), "")
