"""The scenario `basics`: every request a plain client makes, with the content of every answer checked."""

import json
import time
import uuid
from typing import Any

from mcp import McpError, types

from report import Report, expect, milliseconds
from session import Session, open_session, sampled_answer, text_of

# The tools the server must have, with the arguments each must ask for.
BASE_TOOLS: dict[str, list[str]] = {
    "getAllPersons": [],
    "getPersonById": ["id"],
    "addPerson": ["firstName", "lastName", "age", "nationality", "gender"],
    "get_system_info": [],
    "list_servers": [],
}
WRITING_TOOL = "addPerson"
PERSON_FIELDS = ["id", "firstName", "lastName", "age", "nationality", "gender"]
PERSONS_AT_START = 100

# Text that goes wrong when a frame is split at the wrong characters or decoded by halves.
AWKWARD_TEXT = 'a"b\\c\n\nevent: endpoint\r\ndata: {}\r: x\t\u2028\u2029\u0085 é 漢字 😀 \u0000 end'


async def basics(report: Report, options: Any) -> None:
    async with open_session(options) as session:
        report.facts["sessionIds"] = [session.session_id]
        server = session.initialized.serverInfo
        report.facts["server"] = {"name": server.name, "version": server.version}
        report.facts["protocolVersion"] = session.initialized.protocolVersion
        report.check("initialize", server.name, report.facts["server"])
        await report.step("ping", session.ping)

        tools: list[types.Tool] = []

        async def list_tools() -> str:
            cursor = None
            while True:
                page = await session.bounded(
                    "tools/list", session.client.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
                )
                tools.extend(page.tools)
                cursor = page.nextCursor
                if not cursor or len(tools) > 10_000:
                    break
            report.facts["tools"] = [tool.name for tool in tools]
            return " ".join(report.facts["tools"])

        await report.step("tools/list", list_tools)
        check_base_tools(report, tools)
        # A tool that is listed here but not known below fails the check: nothing goes uncalled.
        for tool in tools:
            await report.step(f"call {tool.name}", lambda name=tool.name: call_tool(session, name))

        await report.step("resources/list and resources/read", lambda: read_resources(session))
        await report.step("logging/setLevel", lambda: set_levels(session))
        await report.step("an unknown tool gives an error", lambda: expect_error(session, "no_such_tool", {}))
        await report.step("a missing argument gives an error", lambda: expect_error(session, "getPersonById", {}))
        await report.step(
            "a person that is not there gives an error",
            lambda: expect_error(session, "getPersonById", {"id": 99_999_999}),
        )

        async def lives_on() -> None:
            await session.ping()
            await session.call("list_servers")

        await report.step("the session lives on after errors", lives_on)
        report.facts["notices"] = session.notices


def check_base_tools(report: Report, tools: list[types.Tool]) -> None:
    by_name = {tool.name: tool for tool in tools}
    for name, required in BASE_TOOLS.items():
        tool = by_name.get(name)
        schema = tool.inputSchema if tool else {}
        properties = list(schema.get("properties", {}))
        complete = (
            tool is not None
            and bool(tool.description)
            and schema.get("type") == "object"
            and all(argument in properties and argument in schema.get("required", []) for argument in required)
        )
        report.check(
            f"tool {name} has a description and a schema",
            complete,
            {"properties": properties} if tool else "not listed",
        )
        read_only = tool.annotations.readOnlyHint if tool and tool.annotations else None
        report.check(f"tool {name} is marked right", read_only is (name != WRITING_TOOL), {"readOnlyHint": read_only})


async def call_tool(session: Session, name: str) -> Any:
    expect(name in CALLS, "the driver does not know this tool")
    return await CALLS[name](session)


async def _get_all_persons(session: Session) -> str:
    persons = list_in(await session.call_raw("getAllPersons"))
    expect(len(persons) >= PERSONS_AT_START, f"{len(persons)} persons")
    for person in persons:
        expect_person(person)
    expect(len({person["id"] for person in persons}) == len(persons), "ids are not unique")
    return f"{len(persons)} persons"


async def _get_person_by_id(session: Session) -> Any:
    known = list_in(await session.call_raw("getAllPersons"))[41]
    person = person_in(await session.call_raw("getPersonById", {"id": known["id"]}))
    expect_same(person, known)
    return person


async def _add_person(session: Session) -> str:
    wanted = {
        "firstName": "Zoë",
        "lastName": f"Driver-{uuid.uuid4()}",
        "age": 41,
        "nationality": "Icelandic",
        "gender": "female",
    }
    added = person_in(await session.call_raw("addPerson", wanted))
    expect_person(added)
    expect_same(added, {**wanted, "id": added["id"]})
    expect_same(person_in(await session.call_raw("getPersonById", {"id": added["id"]})), added)
    return f"id {added['id']}"


async def _get_system_info(session: Session) -> str:
    facts = content_of(await session.call_raw("get_system_info"))
    expect(isinstance(facts, dict) and facts, "no members")
    return " ".join(facts)


async def _list_servers(session: Session) -> Any:
    servers = list_in(await session.call_raw("list_servers"))
    expect(servers, "no servers")
    return servers


async def _wait(session: Session) -> None:
    started = time.monotonic()
    text = await session.call("wait", {"ms": 120, "text": "waited-for"})
    elapsed = milliseconds(started)
    expect(text == "waited-for", f"answer: {text}")
    expect(elapsed >= 115, f"answered after {elapsed} ms")


async def _increment(session: Session) -> None:
    """Each call must have run once, by the values it gave and by the server's own count."""
    key, times = f"basics-{uuid.uuid4()}", 3
    for i in range(1, times + 1):
        value = content_of(await session.call_raw("increment", {"key": key}))["value"]
        expect(value == i, f"call {i} made it {value}")
    counts = content_of(await session.call_raw("counts"))
    expect(counts["counters"].get(key) == times, f"{times} calls counted as {counts['counters'].get(key)}")
    expect(all(call["key"] != key for call in counts["repeatedCalls"]), "a call ran more than once")


async def _counts(session: Session) -> None:
    counts = content_of(await session.call_raw("counts"))
    expect({"counters", "distinctCalls", "repeatedCalls"} <= set(counts), "a member is missing")


async def _ask_client(session: Session) -> None:
    prompt = "what is written on the wall?"
    text = await session.call("ask_client", {"prompt": prompt})
    expect(sampled_answer(prompt) in text, f"answer: {text}")


async def _payload(session: Session) -> None:
    length = len((await session.call("payload", {"bytes": 1000})).encode())
    expect(length == 1000, f"{length} bytes")


async def _echo(session: Session) -> None:
    for sent in ["plain", AWKWARD_TEXT, " spaces around "]:
        text = await session.call("echo", {"text": sent})
        expect(text == sent, f"sent {sent!r}, got {text!r}")


CALLS = {
    "getAllPersons": _get_all_persons,
    "getPersonById": _get_person_by_id,
    "addPerson": _add_person,
    "get_system_info": _get_system_info,
    "list_servers": _list_servers,
    "wait": _wait,
    "increment": _increment,
    "counts": _counts,
    "ask_client": _ask_client,
    "payload": _payload,
    "echo": _echo,
}


async def read_resources(session: Session) -> str:
    resources = []
    cursor = None
    while True:
        page = await session.bounded(
            "resources/list", session.client.list_resources(params=types.PaginatedRequestParams(cursor=cursor))
        )
        resources.extend(page.resources)
        cursor = page.nextCursor
        if not cursor or len(resources) > 10_000:
            break
    expect(resources, "no resources")
    for resource in resources:
        uri = resource.uri
        contents = (await session.bounded("resources/read", session.client.read_resource(uri))).contents
        expect(contents and all(part.uri == uri for part in contents), f"{uri}: contents of another resource")
        expect(all(getattr(part, "text", None) or getattr(part, "blob", None) for part in contents), f"{uri}: empty")
    return " ".join(str(resource.uri) for resource in resources)


async def set_levels(session: Session) -> None:
    expect(session.initialized.capabilities.logging is not None, "no logging capability")
    for level in ("debug", "error", "info"):
        await session.bounded("logging/setLevel", session.client.set_logging_level(level))


async def expect_error(session: Session, tool: str, arguments: dict[str, Any]) -> str:
    """An error may be the protocol's own or a result that is marked as one; both are allowed by the specification."""
    try:
        result = await session.call_raw(tool, arguments)
    except McpError as error:
        # The SDK's own code for a closed connection is not the server's answer.
        expect(error.error.code != types.CONNECTION_CLOSED, error.error.message)
        return f"error {error.error.code}: {error.error.message}"
    expect(result.isError, f"answered without an error: {text_of(result)}")
    return f"isError: {text_of(result)}"


def content_of(result: types.CallToolResult) -> Any:
    expect(not result.isError, f"answered an error: {text_of(result)}")
    return json.loads(text_of(result)) if result.structuredContent is None else result.structuredContent


def list_in(result: types.CallToolResult) -> list[Any]:
    content = content_of(result)
    found = content if isinstance(content, list) else next((v for v in content.values() if isinstance(v, list)), None)
    expect(found is not None, "no list in the answer")
    return found


def person_in(result: types.CallToolResult) -> dict[str, Any]:
    content = content_of(result)
    return content.get("person", content)


def expect_person(person: dict[str, Any]) -> None:
    missing = [field for field in PERSON_FIELDS if person.get(field) in (None, "")]
    expect(not missing, f"person {person} lacks {missing}")


def expect_same(person: dict[str, Any], wanted: dict[str, Any]) -> None:
    for field in PERSON_FIELDS:
        expect(person.get(field) == wanted[field], f"{field}: {person.get(field)} instead of {wanted[field]}")
