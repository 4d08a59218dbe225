"""The scenarios by name. Each opens its own sessions, adds its checks to the report and closes what it opened."""

import math
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp import types

from basics import basics
from bridge import bridge, survive
from hold import hold
from report import Report, error_text, expect, latencies, milliseconds, tally
from session import Session, open_session, sampled_answer


async def gather(*bodies: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Runs all at once; their results in order. The first failure ends the others."""
    results: list[Any] = [None] * len(bodies)

    async def run(i: int, body: Callable[[], Awaitable[Any]]) -> None:
        results[i] = await body()

    async with anyio.create_task_group() as group:
        for i, body in enumerate(bodies):
            group.start_soon(run, i, body)
    return results


async def with_session(report: Report, options: Any, body: Callable[[Session], Awaitable[None]]) -> None:
    async with open_session(options) as session:
        report.facts["sessionIds"] = [session.session_id]
        report.facts["notices"] = session.notices
        await body(session)
        # Whatever broke the stream would have ended the session for good: this SDK never reconnects.
        await report.step("session stayed open", session.ping)


async def sampling(report: Report, options: Any) -> None:
    async def body(session: Session) -> None:
        async def ask(prompt: str) -> None:
            text = await session.call("ask_client", {"prompt": prompt})
            expect(sampled_answer(prompt) in text, f"answer: {text}")

        await report.step("one round trip", lambda: ask("who are you? 你是谁?"))

        async def five() -> None:
            await gather(*(lambda i=i: ask(f"question {i} {uuid.uuid4()}") for i in range(5)))

        await report.step("five at once, each gets its own answer", five)
        report.check("every question reached the client once", session.sampled == 6, f"{session.sampled} of 6")

    await with_session(report, options, body)


async def progress(report: Report, options: Any) -> None:
    async def body(session: Session) -> None:
        async def watch(ms: int) -> str:
            seen: list[float] = []

            async def on_progress(value: float, _total: float | None, _message: str | None) -> None:
                seen.append(value)

            text = f"finished-{uuid.uuid4()}"
            answer = await session.call("wait", {"ms": ms, "text": text}, progress_callback=on_progress)
            expect(answer == text, f"answer: {answer}")
            expect(seen, "no progress before the result")
            expect(all(a < b for a, b in zip(seen, seen[1:])), f"not increasing: {seen}")
            return f"{len(seen)} notifications"

        await report.step("progress, then the result", lambda: watch(options.ms))

        async def two() -> str:
            return ", ".join(await gather(lambda: watch(options.ms), lambda: watch(math.ceil(options.ms * 0.7))))

        await report.step("two calls at once, each with its own progress", two)

        async def quiet() -> None:
            stray: list[Any] = []

            def listen(notification: types.ServerNotification) -> None:
                if isinstance(notification.root, types.ProgressNotification):
                    stray.append(notification)

            session.on_notification = listen
            await session.call("wait", {"ms": options.ms, "text": "quiet"})
            expect(not stray, f"{len(stray)} notifications")

        await report.step("no progress unless asked for", quiet)

    await with_session(report, options, body)


# Long enough for progress to be due while the scenario watches.
CANCEL_WATCH_MS = 4000


class WatchedCall:
    """A `wait` call with its progress, its outcome, and the request id that it went out with."""

    def __init__(self, session: Session, ms: int, text: str) -> None:
        self.session, self.ms, self.text = session, ms, text
        self.request_id: int | None = None
        self.progress_at: list[float] = []
        self.answer: str | None = None
        self.outcome = "no answer"

    async def run(self) -> None:
        self.request_id = self.session.next_request_id
        try:
            self.answer = await self.session.call(
                "wait", {"ms": self.ms, "text": self.text}, progress_callback=self._ignore
            )
            self.outcome = self.answer
        except Exception as error:
            self.outcome = error_text(error)

    async def _ignore(self, _value: float, _total: float | None, _message: str | None) -> None:
        """Asked for only so that the request has a progress token; `listen` sees what comes, also after the end."""

    def listen(self, notification: types.ServerNotification) -> None:
        root = notification.root
        # The SDK's progress token is the request's id.
        if isinstance(root, types.ProgressNotification) and root.params.progressToken == self.request_id:
            self.progress_at.append(time.monotonic())


async def cancel(report: Report, options: Any) -> None:
    async def body(session: Session) -> None:
        long = WatchedCall(session, 30_000, "never")
        # Two alike, one cancelled: progress of the one and not of the other shows that the tool itself was stopped.
        stopped = WatchedCall(session, CANCEL_WATCH_MS, "never")
        control = WatchedCall(session, CANCEL_WATCH_MS, "not cancelled")
        watched = [long, stopped, control]
        session.on_notification = lambda notification: [call.listen(notification) for call in watched]

        async def send_cancelled() -> None:
            # The SDK has no call for it.
            for call in (long, stopped):
                params = types.CancelledNotificationParams(requestId=call.request_id, reason="the test cancels")
                notification = types.ClientNotification(types.CancelledNotification(params=params))
                await session.bounded("notifications/cancelled", session.client.send_notification(notification))

        async def answers() -> str:
            started = time.monotonic()
            await session.ping()
            expect(await session.call("echo", {"text": "after"}) == "after", "wrong echo")
            elapsed = milliseconds(started)
            expect(elapsed < 3000, f"after {elapsed} ms")
            return f"{elapsed} ms"

        async with anyio.create_task_group() as cancelled:
            cancelled.start_soon(long.run)
            cancelled.start_soon(stopped.run)
            async with anyio.create_task_group() as others:
                others.start_soon(control.run)
                await anyio.sleep(0.2)
                await report.step("the cancellations are sent", send_cancelled)
                await report.step("ping and echo are answered promptly", answers)
                # What was sent before the cancellation arrived is no fault; by now it has arrived.
                settled_at = time.monotonic()
            # A server may answer a cancelled request with an error or not at all.
            cancelled.cancel_scope.cancel()

        report.check("a call beside them is not cancelled", control.answer == "not cancelled", control.outcome)
        late = {call: sum(at > settled_at for at in call.progress_at) for call in watched}
        report.check(
            "a cancelled call tells no more progress",
            late[control] > 0 and late[stopped] + late[long] == 0,
            f"{late[stopped] + late[long]} notifications, {late[control]} of the call that goes on",
        )
        report.check(
            "a cancelled call gives no result",
            long.answer is None and stopped.answer is None,
            f"{long.outcome}; {stopped.outcome}",
        )

    await with_session(report, options, body)


async def big(report: Report, options: Any) -> None:
    async def body(session: Session) -> None:
        async def result() -> str:
            started = time.monotonic()
            length = len((await session.call("payload", {"bytes": options.bytes})).encode())
            expect(length == options.bytes, f"{length} bytes instead of {options.bytes}")
            return f"{length} bytes in {milliseconds(started)} ms"

        async def request() -> str:
            started = time.monotonic()
            size = options.upload_bytes
            text = varied_text(size)
            answer = await session.call("echo", {"text": text})
            expect(answer == text, f"{len(answer.encode())} bytes came back, or others than the {size} sent")
            return f"{size} bytes in {milliseconds(started)} ms"

        async def small() -> None:
            expect(await session.call("echo", {"text": "small"}) == "small", "wrong echo")

        await report.step("big result", result)
        await report.step("big request and the same back", request)
        await report.step("small calls still work", small)

    await with_session(report, options, body)


def varied_text(size: int) -> str:
    """Text of exactly `size` bytes in UTF-8 that differs everywhere and has characters of one to four bytes."""
    # Each piece has at least 12 bytes.
    text = "".join(f"{i} é漢😀 " for i in range(size // 12 + 1))
    kept = text.encode()[:size].decode(errors="ignore")
    return kept + "." * (size - len(kept.encode()))


async def many(report: Report, options: Any) -> None:
    run = uuid.uuid4()
    samples: list[float] = []
    refused: list[str] = []
    failures: list[str] = []
    foreign: list[str] = []
    ids: list[str | None] = []
    closed: list[str] = []
    settled = 0
    all_settled = anyio.Event()

    def settle() -> None:
        nonlocal settled
        settled += 1
        if settled == options.sessions:
            all_settled.set()

    async def one(s: int) -> None:
        opened = False
        try:
            async with open_session(options) as session:
                opened = True
                ids.append(session.session_id)
                settle()
                # Nobody calls before all are open, so that they are open at once.
                await all_settled.wait()
                for c in range(options.calls):
                    marker = f"{run}/{s}/{c}"
                    started = time.monotonic()
                    try:
                        text = await session.call("echo", {"text": marker})
                    except Exception as error:
                        failures.append(error_text(error))
                        continue
                    samples.append(time.monotonic() - started)
                    if text != marker:
                        foreign.append(f"{marker} got {text}")
        except Exception as error:
            if opened:
                closed.append(error_text(error))
            else:
                refused.append(error_text(error))
                settle()

    await gather(*(lambda s=s: one(s) for s in range(options.sessions)))
    wanted = options.sessions * options.calls
    report.facts["sessionIds"] = ids
    report.facts["latencyMs"] = latencies(samples)
    report.check("all sessions opened", not refused, f"{len(ids)} of {options.sessions} {tally(refused)}")
    report.check("each has a session id of its own", len(set(ids)) == len(ids) and None not in ids)
    report.check("every call answered", len(samples) == wanted, f"{len(samples)} of {wanted} {tally(failures)}")
    report.check("every answer carries its own marker", not foreign, "; ".join(foreign[:3]))
    report.check("all sessions closed in good order", not closed, tally(closed))


PARALLEL_WAIT_MS = 200


async def parallel(report: Report, options: Any) -> None:
    async def body(session: Session) -> None:
        run = uuid.uuid4()
        failures: list[str] = []
        foreign: list[str] = []
        started = time.monotonic()

        async def one(i: int) -> None:
            marker = f"{run}/{i}"
            try:
                if i % 2:
                    text = await session.call("wait", {"ms": PARALLEL_WAIT_MS, "text": marker})
                else:
                    text = await session.call("echo", {"text": marker})
            except Exception as error:
                failures.append(error_text(error))
                return
            if text != marker:
                foreign.append(f"{marker} got {text}")

        await gather(*(lambda i=i: one(i) for i in range(options.calls)))
        elapsed = milliseconds(started)
        waits = options.calls // 2
        answered = options.calls - len(failures)
        report.check("every call answered", not failures, f"{answered} of {options.calls} {tally(failures)}")
        report.check("every answer carries its own marker", not foreign, "; ".join(foreign[:3]))
        # One after the other the waits alone would need their sum.
        report.check(
            "the calls ran side by side",
            waits < 4 or elapsed < waits * PARALLEL_WAIT_MS,
            f"{elapsed} ms for {waits} waits of {PARALLEL_WAIT_MS} ms",
        )

    await with_session(report, options, body)


SCENARIOS: dict[str, Callable[[Report, Any], Awaitable[None]]] = {
    "basics": basics,
    "sampling": sampling,
    "progress": progress,
    "cancel": cancel,
    "big": big,
    "many": many,
    "parallel": parallel,
    "hold": hold,
    "bridge": bridge,
    "survive": survive,
}
