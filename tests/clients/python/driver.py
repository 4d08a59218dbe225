"""Command line of the Python test driver: runs one scenario against one server and prints one JSON object.

Exit code 0: every check passed; 1: not so; 2: bad command line.
"""

import argparse
import logging
import os
import sys
import threading
from importlib.metadata import version
from typing import Any
from urllib.parse import quote, urlsplit

import anyio

from report import Report, error_text
from scenarios import SCENARIOS

# A run that does not end by itself after its time limit is ended by a thread this many seconds later.
HARD_LIMIT_AFTER_S = 5


def whole(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0: {text}")
    return number


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0: {text}")
    return number


def header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"must look like 'Name: value': {text}")
    return name.strip(), value.strip()


def parse() -> Any:
    parser = argparse.ArgumentParser(prog="driver.py", allow_abbrev=False)
    parser.add_argument("--url", required=True, help="endpoint, or with --service the base of its path")
    parser.add_argument("--scenario", required=True, choices=list(SCENARIOS))
    parser.add_argument("--service", help="service behind the router")
    parser.add_argument("--transport", choices=["sse", "streamable"], default="sse", help="default sse")
    parser.add_argument("--header", type=header, action="append", default=[], metavar="'N: V'", help="may be repeated")
    parser.add_argument("--http2", action="store_true", help="over HTTP/2, for https")
    parser.add_argument("--timeout", type=positive, metavar="S", help="whole run (default 60; hold: --seconds plus 60)")
    parser.add_argument("--call-timeout", type=positive, default=30.0, metavar="S", help="each request (default 30)")
    parser.add_argument("--sessions", type=whole, metavar="N", help="many: default 32; hold: default 1")
    parser.add_argument("--calls", type=whole, metavar="N", help="many: of each session, default 10; parallel: 50")
    parser.add_argument("--bytes", type=whole, default=4 * 1024 * 1024, metavar="N", help="big: size of the result")
    parser.add_argument("--upload-bytes", type=whole, default=1024 * 1024, metavar="N", help="big: text sent upstream")
    parser.add_argument("--ms", type=whole, default=1500, metavar="N", help="progress: length of the waiting call")
    parser.add_argument("--seconds", type=positive, default=10.0, metavar="S", help="hold: how long (default 10)")
    parser.add_argument("--interval-ms", type=positive, default=100.0, metavar="N", help="hold: between starts")
    options = parser.parse_args()
    if options.service:
        base = "sse" if options.transport == "sse" else "mcp"
        options.url = f"{options.url.rstrip('/')}/{base}/{quote(options.service, safe='')}"
    if urlsplit(options.url).scheme not in ("http", "https"):
        parser.error(f"--url is not a URL: {options.url}")
    is_hold = options.scenario == "hold"
    options.headers = dict(options.header)
    options.timeout = options.timeout or (options.seconds + 60 if is_hold else 60.0)
    options.sessions = options.sessions or (1 if is_hold else 32)
    options.calls = options.calls or (50 if options.scenario == "parallel" else 10)
    return options


async def run(report: Report, options: Any) -> None:
    with anyio.move_on_after(options.timeout) as limit:
        try:
            await SCENARIOS[options.scenario](report, options)
        except Exception as error:
            report.check("scenario ran to its end", False, error_text(error))
    if limit.cancelled_caught:
        report.check("overall time limit", False, f"not finished within {options.timeout:g} s")


def main() -> None:
    options = parse()
    # httpx would send even loopback requests to a proxy named in the environment.
    os.environ["NO_PROXY"] = "*"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    report = Report(options.scenario, f"mcp {version('mcp')}")

    def strike() -> None:
        report.check("overall time limit", False, f"not finished within {options.timeout:g} s, nor stoppable")
        report.finish()

    watchdog = threading.Timer(options.timeout + HARD_LIMIT_AFTER_S, strike)
    watchdog.daemon = True
    watchdog.start()
    try:
        anyio.run(run, report, options)
    except BaseException as error:
        report.check("no uncaught error", False, error_text(error))
    report.finish()


if __name__ == "__main__":
    main()
