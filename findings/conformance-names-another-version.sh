#!/usr/bin/env bash
# @modelcontextprotocol/conformance 0.1.16 (npm), server suite, scenario server-sse-multiple-streams; a server of its own.
#
# "The client MUST include the MCP-Protocol-Version: <protocol-version> HTTP header on all subsequent requests", and it "SHOULD
# be the one negotiated during initialization" (MCP 2025-11-25, Protocol Version Header). The scenario agrees with the server on
# 2025-11-25 and then posts three requests of that session under 2025-03-26, which is written into it. A server that takes only the
# version agreed on fails the scenario for it; one that takes any version it knows passes.
# Seen: three posts named 2025-03-26 in a session of 2025-11-25. Server that takes them: passed; server that answers 400: failed,
# "Server rejected some requests. Statuses: 400, 400, 400".
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
timeout 300 npm install --prefix "$folder" --no-audit --no-fund --silent @modelcontextprotocol/conformance@0.1.16 node@22 ||
    { echo "the packages cannot be installed"; exit 2; }
cat >"$folder/try.mjs" <<'JS'
import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";

const folder = process.argv[2];

/** A server with sessions; what it was sent, and what the suite says of it. */
async function visit(strict) {
  let agreed;
  const named = [];
  const server = http.createServer((request, response) => {
    let body = "";
    request.on("data", (chunk) => (body += chunk)).on("end", () => {
      const answer = (status, message) => {
        response.writeHead(status, { "content-type": "application/json", "mcp-session-id": "one" });
        response.end(message && JSON.stringify({ jsonrpc: "2.0", ...message }));
      };
      if (request.method !== "POST") return answer(405);
      const message = JSON.parse(body);
      if (message.method === "initialize") {
        agreed = message.params.protocolVersion;
        return answer(200, {
          id: message.id,
          result: { protocolVersion: agreed, capabilities: { tools: {} }, serverInfo: { name: "strict", version: "1" } },
        });
      }
      const version = request.headers["mcp-protocol-version"];
      if (version && version !== agreed) {
        named.push(`${version} in ${agreed}`);
        if (strict) return answer(400, { id: null, error: { code: -32600, message: "another version was agreed on" } });
      }
      if (message.id === undefined) return answer(202);
      answer(200, { id: message.id, result: { tools: [] } });
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const results = fs.mkdtempSync(path.join(folder, "results."));
  const suite = spawn(
    process.execPath,
    [
      path.join(folder, "node_modules/@modelcontextprotocol/conformance/dist/index.js"),
      ...["server", "--url", `http://127.0.0.1:${server.address().port}/mcp`],
      ...["--scenario", "server-sse-multiple-streams", "--output-dir", results],
    ],
    { stdio: "ignore" },
  );
  await new Promise((resolve) => suite.on("exit", resolve));
  server.closeAllConnections();
  server.close();
  const [run] = fs.readdirSync(results);
  const checks = JSON.parse(fs.readFileSync(path.join(results, run, "checks.json")));
  const check = checks.find((check) => check.id === "server-accepts-multiple-post-streams");
  return { named, status: check.status, why: check.errorMessage ?? "" };
}

const want = Array(3).fill("2025-03-26 in 2025-11-25").join(", ");
let asStated = true;
for (const [strict, status] of [[false, "SUCCESS"], [true, "FAILURE"]]) {
  const seen = await visit(strict);
  console.log(`${strict ? "takes the agreed version only" : "takes any it knows"}: other versions: ${seen.named.join(", ") || "none"}; ${seen.status} ${seen.why}`);
  asStated &&= seen.named.join(", ") === want && seen.status === status;
}
console.log(asStated ? "as stated" : "this has changed");
process.exit(asStated ? 0 : 1);
JS
timeout 120 "$folder/node_modules/.bin/node" "$folder/try.mjs" "$folder"
