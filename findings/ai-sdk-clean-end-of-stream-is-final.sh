#!/usr/bin/env bash
# @ai-sdk/mcp 2.0.99 (npm), its client over Streamable HTTP; a server of its own with sessions (MCP 2025-11-25).
#
# "The server MAY close the SSE stream at any time", says the specification of the session's own stream (the GET). This client comes
# back when the connection breaks, with Last-Event-ID, but not when the answer ends as HTTP wants it: no GET any more in 10 s, no
# error to its callback, and calls are answered. What the server asks outside of calls then has no way to the client, and
# nobody is told. The harsh end is the one that works.
# It also asks for the stream before it has a session, is refused with 400 as the specification says, and asks again after
# `initialize`.
# Seen: one GET without a session each time. Broken after the first ping: a second GET with Last-Event-ID, 2 pings answered. Ended
# after the first ping: no second GET, 1 ping answered, no error for it, a call is answered.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
timeout 300 npm install --prefix "$folder" --no-audit --no-fund --silent @ai-sdk/mcp@2.0.99 ||
    { echo "the packages cannot be installed"; exit 2; }
cat >"$folder/try.mjs" <<'JS'
import http from "node:http";
import { createMCPClient } from "@ai-sdk/mcp";

const WAIT = 10_000; // the client's own pause is 1 s, the server's `retry` 0.2 s
const answer = (response, status, message, headers = {}) => {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(message && JSON.stringify({ jsonrpc: "2.0", ...message }));
};

/** One client at one server whose streams end after their first question has been answered; what there was to see. */
async function visit(end) {
  const seen = { refused: 0, streams: [], pings: 0, errors: [] };
  let stream, pinged;
  const until = new Promise((resolve) => (pinged = resolve));

  function get(request, response) {
    if (!request.headers["mcp-session-id"]) {
      seen.refused++;
      return answer(response, 400, { error: { code: -32000, message: "Bad Request: no session" } });
    }
    seen.streams.push(request.headers["last-event-id"] ?? "none");
    stream = response;
    const number = seen.streams.length;
    const ping = JSON.stringify({ jsonrpc: "2.0", id: `ping ${number}`, method: "ping" });
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`id: event-${number}\nretry: 200\ndata: ${ping}\n\n`);
  }

  function post(request, response, message) {
    const session = request.headers["mcp-session-id"];
    if (message.method === "initialize") {
      const { protocolVersion } = message.params;
      const result = { protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "ends", version: "1" } };
      return answer(response, 200, { id: message.id, result }, { "mcp-session-id": "one" });
    }
    if (!session) return answer(response, 400, { id: message.id, error: { code: -32000, message: "Bad Request: no session" } });
    if (message.method === "tools/list") return answer(response, 200, { id: message.id, result: { tools: [] } });
    // The stream is open before the client has the answer to `initialized`, so that the order is the same each time.
    if (message.method) return setTimeout(() => response.writeHead(202).end(), 500);
    response.writeHead(202).end();
    if (message.id !== `ping ${seen.streams.length}`) return;
    seen.pings++;
    if (seen.pings > 1) return pinged();
    // Later than the client has read the 202: nothing is under way when the stream ends.
    setTimeout(() => (end === "broken" ? stream.destroy() : stream.end()), 500);
  }

  const server = http.createServer((request, response) => {
    let body = "";
    request.on("data", (chunk) => (body += chunk)).on("end", () => {
      if (request.method === "GET") get(request, response);
      else if (request.method === "POST") post(request, response, JSON.parse(body));
      else response.writeHead(200).end();
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const client = await createMCPClient({
    transport: { type: "http", url: `http://127.0.0.1:${server.address().port}/mcp` },
    onUncaughtError: (error) => seen.errors.push(error.message),
  });
  await Promise.race([until, new Promise((resolve) => setTimeout(resolve, WAIT))]);
  seen.call = (await client.listTools()).tools.length === 0 ? "answered" : "wrong";
  await client.close();
  server.closeAllConnections();
  server.close();
  return seen;
}

setTimeout(() => (console.log("this has changed: no end in 60 s"), process.exit(1)), 60_000).unref();
const refusal = "MCP HTTP Transport Error: GET SSE failed: 400 Bad Request";
const expected = {
  broken: { refused: 1, streams: ["none", "event-1"], pings: 2, errors: [refusal, "terminated"], call: "answered" },
  ended: { refused: 1, streams: ["none"], pings: 1, errors: [refusal], call: "answered" },
};
let asStated = true;
for (const [end, want] of Object.entries(expected)) {
  const seen = await visit(end);
  console.log(
    `${end}: GETs without a session ${seen.refused}; with one ${seen.streams.length}, Last-Event-ID ${seen.streams.join(", ")}; ` +
      `pings answered ${seen.pings}; a call ${seen.call}; errors: ${seen.errors.join(" | ") || "none"}`,
  );
  asStated &&= Object.keys(want).every((key) => JSON.stringify(seen[key]) === JSON.stringify(want[key]));
}
console.log(asStated ? "as stated" : "this has changed");
process.exit(asStated ? 0 : 1);
JS
node "$folder/try.mjs"
