//! One MCP session: the SDK's own Client over one of the SDK's own transports, with nothing of the protocol redone here.
//! Adds a listener for raw messages, a sampling handler, and bounded waits.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { CreateMessageRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { Agent, buildConnector, fetch } from 'undici';
import { errorText, expect, within } from './report.mjs';

const NOTICE_LIMIT = 20;
const EVENT_SOURCE_CLOSED = 2;

/** The transports by the names of the command line. */
export const transports = { sse: SSEClientTransport, streamable: StreamableHTTPClientTransport };

/** What the sampling handler answers: derived from the prompt, so that an echo of the prompt does not pass for it. */
export function sampledAnswer(prompt) {
  return `sampled ${[...prompt].length} characters: ${[...prompt].reverse().join('')}`;
}

/** A `fetch` whose connections speak HTTP/2 and nothing else, of its own, since Node's has no word for it. */
function http2Fetch() {
  const connect = buildConnector({ allowH2: true });
  const dispatcher = new Agent({
    allowH2: true,
    connect: (options, done) =>
      connect(options, (error, socket) => {
        const isOther = !error && socket.alpnProtocol !== 'h2';
        done(isOther ? new Error(`the server speaks ${socket.alpnProtocol}`) : error, isOther ? null : socket);
      }),
  });
  return (input, init) => fetch(input, { ...init, dispatcher });
}

export class Session {
  #listeners = new Set();

  /** `url`: of the event stream, or of the Streamable HTTP endpoint; `callMs`: limit of each single request. */
  constructor(url, settings = {}) {
    const { transport = 'sse', headers = {}, http2 = false, callMs = 30_000 } = settings;
    const { name = 'mcp-router-test-driver', capabilities = { sampling: {} } } = settings;
    this.callMs = callMs;
    /** Errors that the SDK only reports aside (a broken stream, an answer nobody waits for). */
    this.notices = [];
    this.sampled = 0;
    this.closed = false;
    const how = http2 ? { fetch: http2Fetch() } : {};
    this.transport = new transports[transport](new URL(url), { requestInit: { headers }, ...how });
    // The SDK's Protocol calls a handler that is already there before its own.
    this.transport.onmessage = (message) => this.#listeners.forEach((listener) => listener(message));
    this.client = new Client({ name, version: '1.0.0' }, { capabilities });
    this.client.onerror = (error) => {
      if (this.notices.length < NOTICE_LIMIT) this.notices.push(errorText(error));
    };
    this.client.onclose = () => {
      this.closed = true;
    };
    this.client.setRequestHandler(CreateMessageRequestSchema, async ({ params }) => {
      this.sampled += 1;
      const prompt = params.messages
        .flatMap(({ content }) => content)
        .filter(({ type }) => type === 'text')
        .map(({ text }) => text)
        .join('\n');
      return { role: 'assistant', model: 'test-driver', content: { type: 'text', text: sampledAnswer(prompt) } };
    });
  }

  static async open(url, settings) {
    const session = new Session(url, settings);
    try {
      await within(session.callMs, 'connect and initialize', session.client.connect(session.transport));
    } catch (error) {
      await session.close();
      throw error;
    }
    return session;
  }

  /** Calls `listener` with every JSON-RPC message that arrives; returns the function that stops it. */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** False once the SDK has ended the session, or has given up its stream for good (it does so silently). */
  get alive() {
    return !this.closed && this.transport._eventSource?.readyState !== EVENT_SOURCE_CLOSED;
  }

  /** SSE: where the SDK posts to now, or undefined before the first endpoint event. */
  get endpoint() {
    return this.transport._endpoint;
  }

  get sessionId() {
    if (this.transport.sessionId) return this.transport.sessionId;
    const query = this.endpoint?.searchParams;
    return query?.get('sessionId') ?? query?.get('session_id') ?? null;
  }

  /** The JSON-RPC id that the next request will carry. */
  get nextRequestId() {
    return this.client._requestMessageId;
  }

  /** Calls a tool and returns its result, also when it is marked as an error. */
  callRaw(name, args = {}, options = {}) {
    return this.client.callTool({ name, arguments: args }, undefined, { timeout: this.callMs, ...options });
  }

  /** Calls a tool that must succeed; returns the text of its first content block. */
  async call(name, args = {}, options = {}) {
    const result = await this.callRaw(name, args, options);
    const text = textOf(result);
    expect(!result.isError, () => `${name} answered an error: ${text}`);
    return text;
  }

  ping() {
    return this.client.ping({ timeout: this.callMs });
  }

  /** Ends the session; never throws and never waits for long. */
  async close() {
    // Over Streamable HTTP the client says that it is done with the session, by DELETE.
    if (this.transport.terminateSession) {
      await within(2_000, 'DELETE', this.transport.terminateSession()).catch(() => {});
    }
    await within(2_000, 'close', this.client.close()).catch(() => {});
  }
}

export function textOf(result) {
  return result.content?.find(({ type }) => type === 'text')?.text ?? '';
}
