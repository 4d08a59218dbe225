#!/usr/bin/env bash
# @modelcontextprotocol/sdk 1.32.2 (npm).
#
# A server of HTTP+SSE writes notifications/progress and then the response of the same call onto the event stream (MCP, Progress:
# they stop after completion). What arrives in one piece of the stream the client takes the response of first: with it the
# progress token is forgotten, and notifications are looked at a turn later. The caller's onprogress is not called for any of
# them, and onerror hears of "a progress notification for an unknown token". With 50 ms in between all of them arrive.
# Seen: in one piece none of 3, in pieces 3 of 3; the result comes either way.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
npm install --prefix "$folder" --no-audit --no-fund --silent @modelcontextprotocol/sdk@1.32.2 ||
    { echo "the package cannot be installed"; exit 2; }
cat >"$folder/try.mjs" <<'JS'
import { createServer } from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";

const event = (message) => `event: message\ndata: ${JSON.stringify({ jsonrpc: "2.0", ...message })}\n\n`;
let stream;
const server = createServer(async (request, response) => {
  if (request.method === "GET") {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write("event: endpoint\ndata: /messages\n\n");
    stream = response;
    return;
  }
  let body = "";
  for await (const piece of request) body += piece;
  response.writeHead(202).end();
  const { id, method, params } = JSON.parse(body);
  if (id === undefined) return;
  if (method === "initialize") {
    const result = { protocolVersion: "2024-11-05", capabilities: { tools: {} }, serverInfo: { name: "s", version: "1" } };
    return stream.write(event({ id, result }));
  }
  const { progressToken } = params._meta;
  const events = [1, 2, 3].map((progress) =>
    event({ method: "notifications/progress", params: { progressToken, progress, total: 3 } }),
  );
  events.push(event({ id, result: { content: [{ type: "text", text: "done" }] } }));
  if (params.name === "whole") return stream.write(events.join(""));
  for (const one of events) {
    stream.write(one);
    await pause(50);
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const errors = [];
const client = new Client({ name: "c", version: "1" }, { capabilities: {} });
client.onerror = ({ message }) => errors.push(message.split(":")[0]);
await client.connect(new SSEClientTransport(new URL(`http://127.0.0.1:${server.address().port}/sse`)));
const seen = {};
for (const name of ["whole", "pieces"]) {
  seen[name] = [];
  const onprogress = ({ progress }) => seen[name].push(progress);
  const { content } = await client.callTool({ name }, undefined, { onprogress });
  await pause(200);
  console.log(`${name}: progress ${JSON.stringify(seen[name])}, result ${content[0].text}`);
}
console.log("onerror:", JSON.stringify(errors));
const as = seen.whole.length < 3 && seen.pieces.length === 3;
console.log(as ? "as stated: progress in one piece with the response is lost" : "it has changed");
process.exit(as ? 0 : 1);
JS
node "$folder/try.mjs"
