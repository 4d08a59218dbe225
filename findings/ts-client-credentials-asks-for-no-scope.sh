#!/usr/bin/env bash
# @modelcontextprotocol/sdk 1.32.2 (npm).
#
# A client of MCP takes the scopes to ask for from the challenge of the server (WWW-Authenticate: scope), or else from
# scopes_supported of its protected resource metadata (MCP 2025-11-25, Scope Selection Strategy). The SDK does so for the
# authorization code flow. For client credentials (its own ClientCredentialsProvider) it asks for none, though both name
# one, and after 403 insufficient_scope it asks for none again and gives up.
# Seen: authorization code: scope=mcp:use. Client credentials: two token requests, both without scope, then "Server returned 403
# after trying upscoping". With `scope` given to the provider by its user it is sent, and the client is let in.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
npm install --prefix "$folder" --no-audit --no-fund --silent @modelcontextprotocol/sdk@1.32.2 ||
    { echo "the package cannot be installed"; exit 2; }
cat >"$folder/try.mjs" <<'JS'
import { createServer } from "node:http";
import { auth } from "@modelcontextprotocol/sdk/client/auth.js";
import { ClientCredentialsProvider } from "@modelcontextprotocol/sdk/client/auth-extensions.js";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const asked = [];
let at;
const json = (response, status, body, headers = {}) => {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(body === undefined ? "" : JSON.stringify(body));
};
// A resource server, and the authorization server that it names: a token that was asked for with the scope is `enough`.
const server = createServer(async (request, response) => {
  let body = "";
  for await (const piece of request) body += piece;
  const challenge = (error) => ({
    "www-authenticate": `Bearer ${error}resource_metadata="${at}/.well-known/oauth-protected-resource/mcp", scope="mcp:use"`,
  });
  if (request.url.startsWith("/.well-known/oauth-protected-resource")) {
    return json(response, 200, { resource: `${at}/mcp`, authorization_servers: [at], scopes_supported: ["mcp:use"] });
  }
  if (request.url.startsWith("/.well-known/oauth-authorization-server")) {
    return json(response, 200, {
      issuer: at,
      authorization_endpoint: `${at}/authorize`,
      token_endpoint: `${at}/token`,
      response_types_supported: ["code"],
      grant_types_supported: ["authorization_code", "client_credentials"],
      code_challenge_methods_supported: ["S256"],
    });
  }
  if (request.url === "/token") {
    const scope = new URLSearchParams(body).get("scope");
    asked.push(scope);
    return json(response, 200, { access_token: scope === "mcp:use" ? "enough" : "little", token_type: "Bearer" });
  }
  if (request.url !== "/mcp") return json(response, 404);
  const token = request.headers.authorization;
  if (!token) return json(response, 401, undefined, challenge(""));
  if (token !== "Bearer enough") return json(response, 403, undefined, challenge('error="insufficient_scope", '));
  if (request.method !== "POST") return json(response, 405);
  const message = JSON.parse(body);
  if (message.method !== "initialize") return json(response, 202);
  const result = { protocolVersion: "2025-11-25", capabilities: {}, serverInfo: { name: "scopes", version: "1" } };
  json(response, 200, { jsonrpc: "2.0", id: message.id, result });
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
at = `http://127.0.0.1:${server.address().port}`;

/** What the scopes of its token requests were, and whether the client was let in. */
async function credentials(scope) {
  asked.length = 0;
  const provider = new ClientCredentialsProvider({ clientId: "c", clientSecret: "s", scope, expectedIssuer: at });
  const client = new Client({ name: "client", version: "1" });
  try {
    await client.connect(new StreamableHTTPClientTransport(new URL(`${at}/mcp`), { authProvider: provider }));
    await client.close();
    return { asked: [...asked], let_in: true };
  } catch (error) {
    return { asked: [...asked], let_in: false, error: error.message };
  }
}

async function code() {
  let scope;
  await auth(
    {
      redirectUrl: "http://127.0.0.1:9/",
      clientMetadata: { redirect_uris: ["http://127.0.0.1:9/"] },
      clientInformation: () => ({ client_id: "c" }),
      tokens: () => undefined,
      saveTokens: () => {},
      codeVerifier: () => "",
      saveCodeVerifier: () => {},
      redirectToAuthorization: (url) => void (scope = url.searchParams.get("scope")),
    },
    { serverUrl: `${at}/mcp` },
  );
  return scope;
}

const [by_code, without, given] = [await code(), await credentials(undefined), await credentials("mcp:use")];
console.log(`authorization code: scope=${by_code}`);
console.log(`client credentials: ${JSON.stringify(without)}`);
console.log(`client credentials, scope given by its user: ${JSON.stringify(given)}`);
const as_stated =
  by_code === "mcp:use" &&
  !without.let_in &&
  without.asked.length > 0 &&
  without.asked.every((scope) => scope === null) &&
  given.let_in;
process.exit(as_stated ? 0 : 1);
JS
node "$folder/try.mjs"
