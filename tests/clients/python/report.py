"""The checks of one run and the single JSON object that is printed for them.

Owns the real stdout: everything else that prints goes to stderr.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

DETAIL_LIMIT = 400


class Unmet(Exception):
    """A failed expectation inside a step."""


def expect(condition: Any, reason: str) -> None:
    if not condition:
        raise Unmet(reason)


class Report:
    def __init__(self, scenario: str, sdk: str) -> None:
        self.scenario = scenario
        self.sdk = sdk
        self.checks: list[dict[str, Any]] = []
        # Extra members of the printed object: session ids, timings, counters.
        self.facts: dict[str, Any] = {}
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._stdout = sys.stdout
        sys.stdout = sys.stderr

    def check(self, name: str, ok: Any, detail: Any = "") -> bool:
        text = detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)
        self.checks.append({"name": name, "ok": bool(ok), "detail": text[:DETAIL_LIMIT]})
        return bool(ok)

    async def step(self, name: str, body: Callable[[], Awaitable[Any]]) -> bool:
        """Runs `body`; what it returns is the detail, what it raises is the reason of the failure."""
        try:
            detail = await body()
        except Exception as error:
            return self.check(name, False, error_text(error))
        return self.check(name, True, "" if detail is None else detail)

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check["ok"] for check in self.checks)

    def finish(self) -> None:
        """Prints the object and ends the process, once, from whichever thread comes first."""
        self._lock.acquire()
        shown = {
            "scenario": self.scenario,
            "ok": self.ok,
            "sdk": self.sdk,
            "elapsedMs": milliseconds(self._started),
            **self.facts,
            "checks": self.checks,
        }
        print(json.dumps(shown, ensure_ascii=False), file=self._stdout, flush=True)
        sys.stderr.flush()
        # No tidy shutdown: a library's hanging task or thread must not outlive the time limit.
        os._exit(0 if shown["ok"] else 1)


def error_text(error: BaseException) -> str:
    """The reason at the bottom: task groups wrap what happened in groups, httpx wraps it in causes."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(error_text(inner) for inner in error.exceptions))
    if isinstance(error, Unmet):
        return str(error)
    code = getattr(getattr(error, "error", None), "code", None)
    return f"{type(error).__name__}{'' if code is None else f' {code}'}: {error}"


def milliseconds(since: float) -> int:
    return round((time.monotonic() - since) * 1000)


def latencies(samples: list[float]) -> dict[str, int] | None:
    """p50, p95, p99 and maximum of a list of seconds, in milliseconds."""
    if not samples:
        return None
    ordered = sorted(samples)

    def at(share: float) -> int:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000)

    return {"p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0)}


def tally(texts: list[str]) -> str:
    """The most frequent texts with their counts, short enough for a detail."""
    return "; ".join(f"{times}x {text}" for text, times in Counter(texts).most_common(3))
