//! Who visits whom.

import { readFileSync } from 'node:fs';

const npm = (name) => JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
const pip = (file, name) => new RegExp(`^${name}==(.+)$`, 'm').exec(readFileSync(new URL(file, import.meta.url), 'utf8'))[1];

const node = (id, name, more = {}) => ({ id, version: npm(name), label: `${name} ${npm(name)}`, ...more });
/** `folder`: of its requirements and its virtual environment. */
const python = (id, folder) => {
  const version = pip(`${folder}/requirements.txt`, id);
  return { id, python: folder, version, label: `${id} ${version} (Python)` };
};

/** By the lock file of the crate. `id`: as its program is told. */
const rust = (id, version) => {
  const lock = readFileSync(new URL('../rmcp/Cargo.lock', import.meta.url), 'utf8');
  const locked = [...lock.matchAll(/name = "rmcp"\nversion = "([^"]+)"/g)].map(([, one]) => one);
  const found = locked.find((one) => one.startsWith(version));
  return { id, rmcp: true, version: found, label: `rmcp ${found} (Rust)` };
};

/** The same one over HTTP/2. `label`: what speaks it. */
const http2 = (client, label) => ({ ...client, http2: true, label: `${client.label}, HTTP/2 (${label})` });

const clients = {
  sdk: node('sdk', '@modelcontextprotocol/sdk'),
  client: node('client', '@modelcontextprotocol/client'),
  remote: node('mcp-remote', 'mcp-remote'),
  // A process for one call: there is no later one.
  inspector: node('inspector', '@modelcontextprotocol/inspector', { once: true }),
  mcp1: python('mcp', '../python'),
  mcp2: python('mcp', '.'),
  fastmcp: python('fastmcp', '.'),
  openai: python('openai-agents', 'frameworks'),
  pydantic: python('pydantic-ai-slim', 'frameworks'),
  adk: python('google-adk', 'frameworks'),
  langchain: python('langchain-mcp-adapters', 'langchain'),
  ai: node('ai-sdk', '@ai-sdk/mcp'),
  mastra: node('mastra', '@mastra/mcp'),
  sdk2025: { ...node('sdk-2025', 'sdk-2025'), label: `@modelcontextprotocol/sdk ${npm('sdk-2025')}` },
  rmcp0: rust('rmcp-sse', '0.'),
  rmcp3: rust('rmcp', '3.'),
};

const undici = `undici ${npm('undici')}`;
clients.sdkHttp2 = http2(clients.sdk, undici);
clients.clientHttp2 = http2(clients.client, undici);
clients.mcp1Http2 = http2(clients.mcp1, `httpx ${pip('../python/requirements.txt', 'httpx')}`);
/** Only in the table of --fronts. */
const onlyFronts = ['sdk2025', 'sdkHttp2', 'clientHttp2', 'mcp1Http2'];

/** What `failover-drill.sh --client` calls them. */
const kinds = {
  typescript: ['sdk2025', 'sdk', 'sdkHttp2', 'client', 'clientHttp2'],
  'mcp-remote': ['remote'],
  python: ['mcp1', 'mcp1Http2', 'mcp2', 'fastmcp'],
  rmcp: ['rmcp0', 'rmcp3'],
  framework: ['openai', 'pydantic', 'adk', 'langchain', 'ai', 'mastra'],
};

const slow = (key, ms) => ['slow', { key, ms }, 'slow', { key, ms: 0 }];
const servers = {
  fixture: { label: `TypeScript SDK ${npm('@modelcontextprotocol/sdk')} (our fixture)`, counts: true, calls: slow },
  fastmcp: { label: `FastMCP ${pip('requirements.txt', 'fastmcp')}`, counts: true, calls: slow },
  v6: { calls: (key, ms) => ['wait', { ms, text: key }, 'echo', { text: 'still there' }] },
  rmcp: { label: `rmcp ${clients.rmcp3.version}`, counts: true, calls: slow },
  everything: {
    label: `server-everything ${npm('@modelcontextprotocol/server-everything')}`,
    calls: (_, ms) => [
      'trigger-long-running-operation',
      { duration: ms / 1000, steps: 3 },
      'echo',
      { message: 'still there' },
    ],
  },
};

/** `service` as scripts/clients.sh names it; `sse`: the client's transport. */
function row(client, server, service, more = {}) {
  const label = `${clients[client].label} ${more.sse ? 'sse' : 'streamable'} ${service}`;
  return { client: clients[client], server: servers[server], service, label, ...more };
}

// A server that keeps no events (the TypeScript SDK: for clients before 2025-11-25; rmcp: when the call has ended meanwhile), or whose calls
// end with their connection, cannot give the answer to another instance: the client is told that the outcome is unknown.
const lost = { mayFail: true };

/**
 * It opens the session's own stream before it has a session, is refused, and tries no more; and it does not come back for the
 * stream of a call. A call that waits where an instance dies waits for ever.
 */
const aiSdk = { mayFail: true, mayEnd: true };

export const rows = [
  ...Object.keys(clients)
    .filter((client) => !onlyFronts.includes(client))
    .map((client) => row(client, 'fixture', 'fixture', { ai: aiSdk, rmcp0: lost }[client])),
  row('sdk', 'fixture', 'fixture-sse', lost),
  row('sdk', 'everything', 'everything'),
  row('sdk', 'everything', 'everything-sse'),
  row('sdk', 'fastmcp', 'fastmcp', lost),
  row('sdk', 'fastmcp', 'fastmcp-sse', lost),
  row('sdk', 'rmcp', 'rmcp', lost),
  row('mcp2', 'everything', 'everything'),
  row('mcp2', 'everything', 'everything-sse'),
  row('mcp2', 'fastmcp', 'fastmcp', lost),
  row('mcp2', 'fastmcp', 'fastmcp-sse', lost),
  row('mcp2', 'rmcp', 'rmcp', lost),
  row('rmcp3', 'rmcp', 'rmcp', lost),
  row('rmcp3', 'everything', 'everything'),
  row('sdk', 'fixture', 'fixture', { sse: true }),
  row('remote', 'fixture', 'fixture', { sse: true, mayFail: true }),
];

/** Which client is expected to lose what, and where; all else is to be kept. */
const behindStock = { mayFail: ['stock'] };
const anywhere = { mayFail: ['stock', 'edge'] };
const losses = {
  // They come back to no stream of HTTP+SSE.
  'mcp1 sse': behindStock,
  'mcp1Http2 sse': behindStock,
  'mcp2 sse': behindStock,
  'fastmcp sse': behindStock,
  'openai sse': behindStock,
  'pydantic sse': behindStock,
  'adk sse': behindStock,
  'langchain sse': behindStock,
  'ai sse': behindStock,
  // It fails the calls itself.
  'remote sse': behindStock,
  // It does not go on with the stream of a call.
  'sdk2025 mcp': behindStock,
  'ai mcp': anywhere,
};

/** Of scripts/clients.sh --fronts: one server, whose sessions and calls outlive an instance, whatever version the client speaks. */
export const survivors = Object.entries(kinds).flatMap(([kind, names]) =>
  names.flatMap((name) =>
    [true, false]
      // mastra and rmcp 3 speak no HTTP+SSE any more.
      .filter((sse) => !(sse && ['mastra', 'rmcp3'].includes(name)))
      .map((sse) => row(name, 'v6', 'v6', { sse, kind, ...losses[`${name} ${sse ? 'sse' : 'mcp'}`] })),
  ),
);
