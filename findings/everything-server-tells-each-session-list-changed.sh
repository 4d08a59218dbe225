#!/usr/bin/env bash
# @modelcontextprotocol/server-everything 2026.8.31 (npm), over Streamable HTTP.
#
# It registers some of its tools only after `notifications/initialized`, with a `notifications/tools/list_changed` for each. So a
# session is told that the list has changed before it has asked for one, although all sessions of the same client get the same
# list: a gateway that keeps one list for the server and believes the notice throws it away with each session that begins.
# Seen, two sessions one after the other in one process: without capabilities 1 notice each, the same 13 tools; with sampling and
# elicitation 3 notices each, the same 15 tools.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
timeout 300 npm install --prefix "$folder" --no-audit --no-fund --silent @modelcontextprotocol/server-everything@2026.8.31 ||
    { echo "the packages cannot be installed"; exit 2; }
cat >"$folder/try.mjs" <<'JS'
import { spawn } from "node:child_process";
import net from "node:net";
import { fileURLToPath } from "node:url";

const free = await new Promise((resolve) => {
  const probe = net.createServer().listen(0, "127.0.0.1", () => {
    const { port } = probe.address();
    probe.close(() => resolve(port));
  });
});
const url = `http://127.0.0.1:${free}/mcp`;
const main = fileURLToPath(new URL("node_modules/@modelcontextprotocol/server-everything/dist/index.js", import.meta.url));
const server = spawn(process.execPath, [main, "streamableHttp"], { env: { ...process.env, PORT: free }, stdio: "ignore" });

/** The messages of an event stream, each given to `take` as it comes. */
async function read(answer, take) {
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of answer.body) {
    text += decoder.decode(chunk, { stream: true });
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data:"))?.slice(5).trim();
      if (data) take(JSON.parse(data));
    }
  }
}

/** A session from its start to its end: how often it is told of a changed list, and the names of its tools. */
async function session(capabilities) {
  const stop = AbortSignal.timeout(20_000);
  const headers = { "content-type": "application/json", accept: "application/json, text/event-stream" };
  const send = (message) =>
    fetch(url, { method: "POST", headers, signal: stop, body: JSON.stringify({ jsonrpc: "2.0", ...message }) });
  const clientInfo = { name: "client", version: "1" };
  const started = await send({ id: 1, method: "initialize", params: { protocolVersion: "2025-11-25", capabilities, clientInfo } });
  headers["mcp-session-id"] = started.headers.get("mcp-session-id");
  headers["mcp-protocol-version"] = "2025-11-25";
  await read(started, () => {});
  let notices = 0, names = [];
  const leave = new AbortController();
  const signal = AbortSignal.any([stop, leave.signal]);
  const stream = await fetch(url, { headers: { ...headers, accept: "text/event-stream" }, signal });
  const reading = read(stream, ({ method }) => (notices += method === "notifications/tools/list_changed")).catch(() => {});
  await (await send({ method: "notifications/initialized" })).arrayBuffer();
  await read(await send({ id: 2, method: "tools/list" }), ({ result }) => (names = result.tools.map(({ name }) => name).sort()));
  await new Promise((resolve) => setTimeout(resolve, 2000)); // for notices that come later
  leave.abort();
  await reading;
  await (await fetch(url, { method: "DELETE", headers, signal: stop })).arrayBuffer();
  return { notices, names };
}

let asStated = true;
try {
  for (let tries = 0; ; tries++) {
    const up = await fetch(url, { method: "DELETE", signal: AbortSignal.timeout(1000) }).catch(() => {});
    if (up) break;
    if (tries === 100) throw new Error("the server does not start");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const cases = [["no capabilities", {}, 1, 13], ["sampling and elicitation", { sampling: {}, elicitation: {} }, 3, 15]];
  for (const [name, capabilities, notices, tools] of cases) {
    const first = await session(capabilities);
    const second = await session(capabilities);
    const same = JSON.stringify(first.names) === JSON.stringify(second.names);
    for (const [which, got] of Object.entries({ first, second }))
      console.log(`${name}, ${which} session: told ${got.notices} times that the list has changed, ${got.names.length} tools`);
    console.log(`${name}: ${same ? "the same tools in both" : "other tools"}`);
    asStated &&= same && [first, second].every((got) => got.notices === notices && got.names.length === tools);
  }
} catch (error) {
  console.log(`it went otherwise: ${error.message}`);
  asStated = false;
} finally {
  server.kill("SIGKILL");
}
console.log(asStated ? "as stated" : "this has changed");
process.exit(asStated ? 0 : 1);
JS
node "$folder/try.mjs"
