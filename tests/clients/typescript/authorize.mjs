//! The TypeScript SDK at a router that asks for tokens: it is told nothing but the URL of the service, and finds the authorization
//! server by itself. Prints one JSON object.
//!
//!   node authorize.mjs URL TRANSPORT FLOW [SCOPE]
//!
//! FLOW: `client` (client credentials) or `user` (authorization code, with a browser that says yes to everything).

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { ClientCredentialsProvider } from '@modelcontextprotocol/sdk/client/auth-extensions.js';
import { transports } from './session.mjs';

const [url, transport, flow, scope] = process.argv.slice(2);
const CLIENT = { client_id: 'tester', client_secret: 'open-sesame' };
const CALLBACK = 'http://127.0.0.1:9/callback';

/** Follows redirects and sends every form that it is shown, until it is sent back to the client with a code. */
async function browse(start) {
  const jar = new Map();
  let [at, form] = [new URL(start), undefined];
  for (let step = 0; step < 20; step += 1) {
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(at, {
      method: form ? 'POST' : 'GET',
      body: form,
      redirect: 'manual',
      headers: cookie ? { cookie } : {},
    });
    for (const set of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(set);
      jar.set(name, value);
    }
    const next = response.headers.get('location');
    if (next) {
      [at, form] = [new URL(next, at), undefined];
      if (at.href.startsWith(CALLBACK)) return at.searchParams.get('code');
      continue;
    }
    const page = await response.text();
    const action = /<form[^>]* action="([^"]+)"/.exec(page)?.[1];
    const prompt = /name="prompt" value="([^"]+)"/.exec(page)?.[1];
    if (!action || !prompt) throw new Error(`status ${response.status}: ${page.slice(0, 300)}`);
    [at, form] = [new URL(action, at), new URLSearchParams({ prompt, login: 'alice', password: 'any' })];
  }
  throw new Error('the browser is sent round in circles');
}

class User {
  code = undefined;
  #saved = {};
  redirectUrl = CALLBACK;
  clientMetadata = { redirect_uris: [CALLBACK], client_name: 'test', scope };
  clientInformation = () => CLIENT;
  tokens = () => this.#saved.tokens;
  saveTokens = (tokens) => void (this.#saved.tokens = tokens);
  codeVerifier = () => this.#saved.verifier;
  saveCodeVerifier = (verifier) => void (this.#saved.verifier = verifier);
  redirectToAuthorization = async (to) => void (this.code = await browse(to));
}

async function connect(authProvider) {
  const client = new Client({ name: 'mcp-router-test-authorize', version: '1.0.0' });
  const through = new transports[transport](new URL(url), { authProvider });
  await client.connect(through).catch((error) => Promise.reject(Object.assign(error, { through })));
  return client;
}

async function main() {
  let client;
  if (flow === 'client') {
    client = await connect(
      new ClientCredentialsProvider({ clientId: CLIENT.client_id, clientSecret: CLIENT.client_secret, scope }),
    );
  } else {
    const user = new User();
    try {
      await connect(user);
      throw new Error('it was let in without a token');
    } catch (error) {
      if (!(error instanceof UnauthorizedError)) throw error;
      await error.through.finishAuth(user.code);
    }
    client = await connect(user);
  }
  const { tools } = await client.listTools();
  const { content } = await client.callTool({ name: 'echo', arguments: { text: 'hello' } });
  await client.close();
  return { ok: true, tools: tools.length, text: content[0].text };
}

const report = await main().catch((error) => ({ ok: false, error: `${error?.stack ?? error}` }));
process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(report.ok ? 0 : 1));
