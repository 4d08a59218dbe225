#!/usr/bin/env bash
# @ai-sdk/mcp 2.0.99 (npm), its client over Streamable HTTP; @modelcontextprotocol/sdk 1.32.2 (npm) for comparison; a server of
# its own (MCP 2025-11-25).
#
# Since 2025-11-25 a stream SHOULD begin with a priming event: an id and empty data, so that the client can resume from the start.
# This client takes the empty data for a message and gives an error to `onUncaughtError` for each primed answer; a notification of
# the server is an error there, too. No answer is lost, but who counts these errors counts a well server's calls as faults. The
# TypeScript SDK reports nothing.
# Seen, for 3 calls whose primed answers carry one notification each: @ai-sdk/mcp 3 answers, 3 times "Failed to parse message", 3
# times "Unsupported message type"; the SDK 3 answers, no error. Without priming events and notifications: 3 answers, no error.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
timeout 300 npm install --prefix "$folder" --no-audit --no-fund --silent @ai-sdk/mcp@2.0.99 @modelcontextprotocol/sdk@1.32.2 ||
    { echo "the packages cannot be installed"; exit 2; }
cat >"$folder/try.mjs" <<'JS'
import http from "node:http";
import { createMCPClient } from "@ai-sdk/mcp";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const CALLS = 3;

/** A server without sessions and without a stream of its own: 405 to GET, each call is answered with an event stream. */
function serve(primed) {
  let events = 0;
  const json = (response, status, message) =>
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify({ jsonrpc: "2.0", ...message }));
  return http.createServer((request, response) => {
    let body = "";
    request.on("data", (chunk) => (body += chunk)).on("end", () => {
      if (request.method !== "POST") return response.writeHead(405).end();
      const { id, method, params } = JSON.parse(body);
      const event = (message) => `id: ${++events}\ndata: ${message ? JSON.stringify({ jsonrpc: "2.0", ...message }) : ""}\n\n`;
      if (id === undefined) return response.writeHead(202).end();
      if (method === "initialize") {
        const { protocolVersion } = params;
        const capabilities = { tools: {}, logging: {} };
        return json(response, 200, { id, result: { protocolVersion, capabilities, serverInfo: { name: "primes", version: "1" } } });
      }
      if (method !== "tools/list") return json(response, 200, { id, error: { code: -32601, message: "Method not found" } });
      response.writeHead(200, { "content-type": "text/event-stream" });
      if (primed) response.write(event() + event({ method: "notifications/message", params: { level: "info", data: "hello" } }));
      response.end(event({ id, result: { tools: [] } }));
    });
  });
}

const clients = {
  async "@ai-sdk/mcp 2.0.99"(url, onError) {
    const client = await createMCPClient({ transport: { type: "http", url }, onUncaughtError: onError });
    return [() => client.listTools(), () => client.close()];
  },
  async "@modelcontextprotocol/sdk 1.32.2"(url, onError) {
    const client = new Client({ name: "client", version: "1" });
    client.onerror = onError;
    await client.connect(new StreamableHTTPClientTransport(new URL(url)));
    return [() => client.listTools(), () => client.close()];
  },
};

async function visit(connect, primed) {
  const server = serve(primed);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const errors = {};
  let answers = 0;
  const count = ({ message }) => (errors[message] = (errors[message] ?? 0) + 1);
  const [call, close] = await connect(`http://127.0.0.1:${server.address().port}/mcp`, count);
  for (let number = 0; number < CALLS; number++) answers += (await call()).tools.length === 0 ? 1 : 0;
  await new Promise((resolve) => setTimeout(resolve, 500)); // for errors that come after the answers
  await close();
  server.closeAllConnections();
  server.close();
  return { answers, errors };
}

setTimeout(() => (console.log("this has changed: no end in 60 s"), process.exit(1)), 60_000).unref();
const reported = { "MCP HTTP Transport Error: Failed to parse message": CALLS, "Unsupported message type": CALLS };
let asStated = true;
for (const [name, connect] of Object.entries(clients)) {
  for (const primed of [true, false]) {
    const { answers, errors } = await visit(connect, primed);
    const text = Object.entries(errors).map(([message, times]) => `${times} times "${message}"`).join(", ") || "none";
    const sent = primed ? "primed, with notifications" : "answers only";
    console.log(`${name}, ${sent}: ${answers} of ${CALLS} answers, errors: ${text}`);
    const want = primed && name.startsWith("@ai-sdk") ? reported : {};
    asStated &&= answers === CALLS && JSON.stringify(errors) === JSON.stringify(want);
  }
}
console.log(asStated ? "as stated" : "this has changed");
process.exit(asStated ? 0 : 1);
JS
node "$folder/try.mjs"
