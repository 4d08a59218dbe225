//! One visit of a stock client: it connects, lists the tools, calls one that takes its time, and then once more.
//!
//!   node visit.mjs CLIENT URL TOOL ARGUMENTS QUICK-TOOL QUICK-ARGUMENTS
//!
//! CLIENT: sdk (1.x), client (2.x), mcp-remote (bridged from stdio, driven by the SDK), inspector (its CLI: a process for the
//! one call), ai-sdk, mastra, sdk-2025. stdout gets a JSON object a line: `connected`, `calling`, then `answered` or `failed`, and `after` or
//! `failed`. VISIT_HTTP2: sdk and client speak HTTP/2, by undici. VISIT_CALLS: so many slow calls, each when a line comes on stdin, after `ready`. VISIT_CALL_LIMIT_S: of each call.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const [name, url, tool, argumentsText, quickTool, quickArgumentsText] = process.argv.slice(2);
const slow = { name: tool, arguments: JSON.parse(argumentsText) };
const quick = { name: quickTool, arguments: JSON.parse(quickArgumentsText) };

const tell = (event, facts = {}) => process.stdout.write(`${JSON.stringify({ event, ...facts })}\n`);
const textOf = (result) => (result.isError ? 'isError: ' : '') + (result.content?.find(({ text }) => text)?.text ?? '');
const bin = (path) => fileURLToPath(new URL(`node_modules/${path}`, import.meta.url));
const calls = Number(process.env.VISIT_CALLS ?? 1);
/** Those that have none of their own hang for ever; a client that hangs is a result, too. */
const callLimitMs = Number(process.env.VISIT_CALL_LIMIT_S ?? 90) * 1000;
const isSse = new URL(url).pathname.split('/').includes('sse');

/** Libraries print what goes wrong beside a call; it is not lost, and not mixed with the report. */
console.log = console.info = console.debug = console.error;

/** A `fetch` for the SDKs that speaks HTTP/2 and nothing else. */
async function how() {
  if (!process.env.VISIT_HTTP2) return {};
  const { Agent, buildConnector, fetch } = await import('undici');
  const connector = buildConnector({ allowH2: true });
  const connect = (options, done) =>
    connector(options, (error, socket) => {
      if (!error && socket.alpnProtocol !== 'h2') return done(new Error(`the server speaks ${socket.alpnProtocol}`), null);
      return done(error, socket);
    });
  const dispatcher = new Agent({ allowH2: true, connect });
  return { fetch: (input, init) => fetch(input, { ...init, dispatcher }) };
}

const connections = {
  async sdk() {
    const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
    const { SSEClientTransport } = await import('@modelcontextprotocol/sdk/client/sse.js');
    const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
    return [Client, new (isSse ? SSEClientTransport : StreamableHTTPClientTransport)(new URL(url), await how())];
  },
  async 'sdk-2025'() {
    const { Client } = await import('sdk-2025/client/index.js');
    const { SSEClientTransport } = await import('sdk-2025/client/sse.js');
    const { StreamableHTTPClientTransport } = await import('sdk-2025/client/streamableHttp.js');
    return [Client, new (isSse ? SSEClientTransport : StreamableHTTPClientTransport)(new URL(url))];
  },
  async client() {
    const { Client, SSEClientTransport, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
    return [Client, new (isSse ? SSEClientTransport : StreamableHTTPClientTransport)(new URL(url), await how())];
  },
  async 'mcp-remote'() {
    const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
    const { StdioClientTransport } = await import('@modelcontextprotocol/sdk/client/stdio.js');
    const args = [bin('mcp-remote/dist/proxy.js'), url, '--transport', isSse ? 'sse-only' : 'http-only'];
    return [Client, new StdioClientTransport({ command: process.execPath, args, env: process.env, stderr: 'inherit' })];
  },
};

/** Frameworks: how many tools there are, and how one is called. */
const frameworks = {
  async 'ai-sdk'() {
    const { createMCPClient } = await import('@ai-sdk/mcp');
    const client = await createMCPClient({ transport: { type: isSse ? 'sse' : 'http', url } });
    const tools = await client.tools();
    const callTool = (call) => tools[call.name].execute(call.arguments, { toolCallId: call.name, messages: [] });
    return { tools: Object.keys(tools).length, callTool, close: () => client.close() };
  },
  async mastra() {
    const { MCPClient } = await import('@mastra/mcp');
    const client = new MCPClient({ servers: { it: { url: new URL(url) } }, timeout: 60_000 });
    const tools = await client.listTools();
    const callTool = (call) => tools[`it_${call.name}`].execute(call.arguments);
    return { tools: Object.keys(tools).length, callTool, close: () => client.disconnect() };
  },
};

async function connect() {
  if (frameworks[name]) return frameworks[name]();
  const [Client, transport] = await connections[name]();
  const client = new Client({ name: 'mcp-router-visit', version: '1.0.0' });
  client.onerror = (error) => console.error(`aside: ${error.message}`);
  await client.connect(transport);
  const { tools } = await client.listTools();
  const close = async () => {
    await transport.terminateSession?.().catch(() => {});
    await client.close();
  };
  return { tools: tools.length, callTool: (call) => client.callTool(call), list: () => client.listTools(), close };
}

async function visit() {
  const { tools, callTool, list, close } = await connect();
  tell('connected', { tools });
  const lines = calls > 1 ? createInterface({ input: process.stdin })[Symbol.asyncIterator]() : undefined;
  const within = (promise) => {
    let timer;
    const limit = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error('no answer')), callLimitMs)));
    return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
  };
  const make = async (event, work) => {
    try {
      tell(event, { text: textOf(await within(work())) });
    } catch (error) {
      tell('failed', { text: error.message });
    }
  };
  for (let number = 0; number < calls; number += 1) {
    if (lines) {
      tell('ready');
      await lines.next();
    }
    tell('calling');
    await make('answered', () => callTool(slow));
  }
  await make('after', async () => {
    if (lines) await list?.();
    return callTool(quick);
  });
  await Promise.race([close(), new Promise((resolve) => setTimeout(resolve, 5_000))]);
}

/** The Inspector's CLI makes one request and ends. */
function inspect() {
  const pairs = Object.entries(slow.arguments).map(([key, value]) => `${key}=${value}`);
  const args = [bin('.bin/mcp-inspector'), '--cli', url, '--transport', isSse ? 'sse' : 'http', '--method', 'tools/call'];
  args.push('--tool-name', tool, ...(pairs.length ? ['--tool-arg', ...pairs] : []));
  const cli = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  tell('calling');
  let output = '';
  cli.stdout.on('data', (chunk) => (output += chunk));
  cli.on('close', (code) => {
    try {
      const result = JSON.parse(output);
      if (code) throw new Error(`exit code ${code}`);
      tell('answered', { text: textOf(result.result ?? result) });
    } catch (error) {
      tell('failed', { text: `exit code ${code}: ${output.slice(0, 200)} ${error.message}` });
    }
  });
}

if (name === 'inspector') {
  inspect();
} else {
  try {
    await visit();
    process.exit(0);
  } catch (error) {
    tell('failed', { text: `connect: ${error.message}` });
    process.exit(1);
  }
}
