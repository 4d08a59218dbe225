"""The scenarios `bridge` and `survive`: a client with a session at a server that has none (tests/fixtures/modern-tools).

Every thing that either side may say is said once; then the same while the instance between them dies.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp import McpError, types
from pydantic import AnyUrl

from report import Report, expect
from session import Session, open_session, sampled_answer

COUNTER = AnyUrl("test://counter")


@asynccontextmanager
async def able_session(options: Any, thinks_s: float = 0) -> AsyncIterator[Session]:
    """A session of a client that can all."""

    async def elicit(_context: Any, _params: types.ElicitRequestParams) -> types.ElicitResult:
        await anyio.sleep(thinks_s)
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def roots(_context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///here", name="here")])

    async with open_session(options, elicitation_callback=elicit, list_roots_callback=roots) as session:
        yield session


async def bridge(report: Report, options: Any) -> None:
    async with able_session(options) as session:
        client = session.client
        seen: list[types.ServerNotification] = []
        session.on_notification = seen.append

        async def told(kind: type) -> Any:
            with anyio.fail_after(session.call_s):
                while not (found := [note.root for note in seen if isinstance(note.root, kind)]):
                    await anyio.sleep(0.01)
            return found[0]

        async def answered(tool: str) -> Any:
            return json.loads(await session.call(tool))

        async def handshake() -> str:
            expect(session.initialized.serverInfo.name == "modern-tools", session.initialized.serverInfo.name)
            return str(session.initialized.protocolVersion)

        async def listed() -> None:
            names = [tool.name for tool in (await client.list_tools()).tools]
            expect("echo" in names, names)

        async def called() -> None:
            expect(await session.call("echo", {"text": "é漢😀"}) == "é漢😀", "no echo")

        async def located() -> None:
            text = await session.call("located", {"region": "here"})
            expect(text == "here here", text)

        async def progressed() -> None:
            steps: list[float] = []

            async def on_progress(value: float, _total: float | None, _message: str | None) -> None:
                steps.append(value)

            await session.call("progress", {"steps": 3}, progress_callback=on_progress)
            expect(steps == [1, 2, 3], steps)

        async def logged() -> None:
            await client.set_logging_level("error")
            await session.call("log")
            levels = [note.root.params.level for note in seen if isinstance(note.root, types.LoggingMessageNotification)]
            expect(levels == ["error"], levels)

        async def elicited() -> None:
            told = await answered("elicit")
            expect(told["state"] == "elicit was asked" and told["said"][0]["content"]["name"] == "Ada", told)

        async def elicited_twice() -> None:
            text = await session.call("elicit_twice")
            expect(text == "Ada and Ada", text)

        async def sampled() -> None:
            told = await answered("sample")
            expect(told["said"][0]["result"]["content"]["text"] == sampled_answer("Who are you?"), told)

        async def rooted() -> None:
            told = await answered("roots")
            expect(told["said"][0]["roots"][0]["uri"] == "file:///here", told)

        async def asked_all() -> None:
            kinds = [said["kind"] for said in (await answered("ask_all"))["said"]]
            expect(kinds == ["elicit", "sampling", "roots"], kinds)

        async def cancelled() -> None:
            request = session.next_request_id

            async def cancel() -> None:
                await anyio.sleep(0.3)
                params = types.CancelledNotificationParams(requestId=request, reason="the test cancels")
                await client.send_notification(types.ClientNotification(types.CancelledNotification(params=params)))
                group.cancel_scope.cancel()

            # This SDK has no way to cancel a call but this one.
            async with anyio.create_task_group() as group:
                group.start_soon(cancel)
                await session.call_raw("slow", {"ms": 60_000, "key": "cancelled"})
            await session.call("echo", {"text": "on"})

        async def prompted() -> None:
            prompt = await client.get_prompt("greet", {"name": "Ada"})
            expect(prompt.messages[0].content.text == "Greet Ada.", prompt)
            read = await client.read_resource(COUNTER)
            expect(read.contents[0].uri == COUNTER, read)

        async def subscribed() -> None:
            await client.subscribe_resource(COUNTER)
            await session.call("change", {"what": "counter"})
            updated = await told(types.ResourceUpdatedNotification)
            expect(updated.params.uri == COUNTER, updated)
            await client.unsubscribe_resource(COUNTER)

        async def changed() -> None:
            await session.call("change", {"what": "tools"})
            await told(types.ToolListChangedNotification)

        steps: dict[str, Callable[[], Awaitable[Any]]] = {
            "the handshake": handshake,
            "tools/list": listed,
            "a call": called,
            "an argument that stands in a header": located,
            "progress": progressed,
            "log messages from a level on": logged,
            "elicitation": elicited,
            "two elicitations, one after the other": elicited_twice,
            "sampling": sampled,
            "roots": rooted,
            "all of it in one round": asked_all,
            "a cancelled call ends, and others go on": cancelled,
            "prompts and resources": prompted,
            "a subscription": subscribed,
            "a list that changes": changed,
            "session stayed open": session.ping,
        }
        for name, step in steps.items():
            await report.step(name, step)
        report.facts["notices"] = session.notices


async def survive(report: Report, options: Any) -> None:
    """Somebody kills the instance that has the session once `in-flight` and `asked` have begun at the server."""
    # A person who thinks for longer than an instance takes to be replaced.
    async with able_session(options, thinks_s=options.ms / 1000) as session:
        expect(await session.call("write", {"key": "before"}) == "1", "not once")
        outcomes: dict[str, Any] = {}

        async def call(tool: str, arguments: dict[str, Any]) -> None:
            try:
                outcomes[tool] = await session.call(tool, arguments)
            except McpError as error:
                outcomes[tool] = error.error.data

        async with anyio.create_task_group() as group:
            group.start_soon(call, "elicit", {"key": "asked"})
            group.start_soon(call, "slow", {"ms": 600_000, "key": "in-flight"})

        async def unknown() -> None:
            expect(outcomes["slow"]["outcome"] == "unknown" and outcomes["slow"]["retry"] is False, outcomes["slow"])

        async def goes_on() -> None:
            expect(json.loads(outcomes["elicit"])["said"][0]["content"]["name"] == "Ada", outcomes["elicit"])

        async def after() -> None:
            expect(await session.call("write", {"key": "after"}) == "1", "not once")

        await report.step("the call that ran is of unknown outcome", unknown)
        await report.step("the call that waited for its client goes on", goes_on)
        await report.step("the session goes on", after)
        report.facts["notices"] = session.notices
