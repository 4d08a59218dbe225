"""The scenario `hold`: a steady load for tests that kill something. READY on stderr says that all sessions are open."""

import asyncio
import signal
import sys
import time
import uuid
from contextlib import AsyncExitStack
from typing import Any

import anyio

from report import Report, error_text, latencies, milliseconds
from session import Session, open_session

# Calls without an answer yet, per session; at this number a start is skipped and counted, so that memory stays flat.
PENDING_LIMIT = 500
ERROR_TEXT_LIMIT = 50


async def hold(report: Report, options: Any) -> None:
    totals: dict[str, Any] = {
        "calls": 0,
        "ok": 0,
        "errors": 0,
        "skipped": 0,
        "byText": {},
        "firstErrorMs": None,
        "lastErrorMs": None,
        "longestSilenceMs": 0,
        "latencyMs": None,
    }
    samples: list[float] = []
    pending = 0
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(open_session(options)) for _ in range(options.sessions)]
        # Shared with the report from the start, so that the totals are printed even when the time limit strikes.
        report.facts.update(sessionIds=[session.session_id for session in sessions], totals=totals)
        print("READY", file=sys.stderr, flush=True)
        ready_at = last_answer_at = time.monotonic()
        end = ready_at + options.seconds
        run = uuid.uuid4()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

        def count_error(text: str) -> None:
            totals["errors"] += 1
            totals["lastErrorMs"] = milliseconds(ready_at)
            if totals["firstErrorMs"] is None:
                totals["firstErrorMs"] = totals["lastErrorMs"]
            if text in totals["byText"] or len(totals["byText"]) < ERROR_TEXT_LIMIT:
                totals["byText"][text] = totals["byText"].get(text, 0) + 1

        async def call_once(session: Session, marker: str) -> None:
            nonlocal pending, last_answer_at
            started = time.monotonic()
            try:
                text = await session.call("echo", {"text": marker})
                if text != marker:
                    count_error("an answer with the marker of another call")
                    return
                totals["ok"] += 1
                now = time.monotonic()
                samples.append(now - started)
                totals["longestSilenceMs"] = max(totals["longestSilenceMs"], milliseconds(last_answer_at))
                last_answer_at = now
            except Exception as error:
                count_error(error_text(error))
            finally:
                pending -= 1

        async with anyio.create_task_group() as group:
            # Starts do not wait for answers: an outage must not thin out the load that shows it.
            tick = 0
            while not stop.is_set() and time.monotonic() < end:
                for s, session in enumerate(sessions):
                    if pending >= PENDING_LIMIT * len(sessions):
                        totals["skipped"] += 1
                        continue
                    pending += 1
                    totals["calls"] += 1
                    group.start_soon(call_once, session, f"{run}/{s}/{tick}")
                tick += 1
                with anyio.move_on_after(options.interval_ms / 1000):
                    await stop.wait()

        totals["longestSilenceMs"] = max(totals["longestSilenceMs"], milliseconds(last_answer_at))
        totals["latencyMs"] = latencies(samples)
        report.facts["notices"] = [notice for session in sessions for notice in session.notices][:20]
        report.check("calls were made and answered", totals["ok"], f"{totals['ok']} of {totals['calls']}")
        report.check("no errors", not totals["errors"], totals["byText"])
        report.check("no start skipped", not totals["skipped"], str(totals["skipped"]))
