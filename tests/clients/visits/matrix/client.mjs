// What a stock TypeScript client gets from a server, feature by feature.
//
//   node client.mjs sdk|client|client-auto URL SPEC
//
// sdk: @modelcontextprotocol/sdk 1.x; client: @modelcontextprotocol/client 2.x as it is, which begins with a session; client-auto:
// the same, which asks for the version of the server first. SPEC and what is told: as of client.py.
import { setTimeout as wait } from 'node:timers/promises';

const [kind, url, specText] = process.argv.slice(2);
const spec = JSON.parse(specText);
const STEP_MS = 20_000;
const told = {};

/** The user says "Ada" to whatever he is asked. */
function filled({ params }) {
    const names = Object.keys(params.requestedSchema.properties);
    return { action: 'accept', content: Object.fromEntries(names.map((name) => [name, 'Ada'])) };
}

let updated;
const update = new Promise((resolve) => (updated = resolve));

async function connect() {
    const capabilities = { elicitation: {} };
    if (kind === 'sdk') {
        const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
        const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
        const types = await import('@modelcontextprotocol/sdk/types.js');
        const client = new Client({ name: 'matrix', version: '1' }, { capabilities });
        client.setRequestHandler(types.ElicitRequestSchema, filled);
        client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, () => updated());
        const transport = new StreamableHTTPClientTransport(new URL(url));
        await client.connect(transport);
        told.version = transport.protocolVersion;
        return [client, (call, options) => client.callTool(call, undefined, options)];
    }
    const { Client, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
    const options = { capabilities, ...(kind === 'client-auto' && { versionNegotiation: { mode: 'auto' } }) };
    const client = new Client({ name: 'matrix', version: '1' }, options);
    client.setRequestHandler('elicitation/create', filled);
    client.setNotificationHandler('notifications/resources/updated', () => updated());
    await client.connect(new StreamableHTTPClientTransport(new URL(url)));
    told.version = client.getNegotiatedProtocolVersion();
    return [client, (call, options) => client.callTool(call, options)];
}

const why = (error) => `${error.name}: ${String(error.message).split('\n')[0]}`.slice(0, 160);
const late = () => wait(STEP_MS, undefined, { ref: false }).then(() => Promise.reject(new Error('no end')));

async function step(feature, attempt) {
    if (!(feature in spec)) return;
    told[feature] = await Promise.race([attempt(spec[feature]), late()]).then((said) => said ?? 'ok', why);
}

try {
    const [client, callTool] = await Promise.race([connect(), late()]);
    const said = async (name, given, options) => (await callTool({ name, arguments: given }, options)).content[0].text;
    const expected = (text, wanted) => (text.includes(wanted) ? 'ok' : `unexpected: ${text.slice(0, 100)}`);
    const called = async (how) => expected(await said(how.tool, how.arguments), how.expect);

    await step('list', async (wanted) => {
        const names = (await client.listTools()).tools.map((tool) => tool.name);
        return names.includes(wanted) ? 'ok' : `unexpected: ${names}`;
    });
    await step('call', called);
    await step('progress', async (how) => {
        let seen = 0;
        const text = await said(how.tool, how.arguments, { onprogress: () => (seen += 1) });
        return seen > 0 ? expected(text, how.expect) : `no progress, ${text}`;
    });
    await step('ask', called);
    await step('cancel', async (how) => {
        const leaving = new AbortController();
        const left = said(how.tool, how.arguments, { signal: leaving.signal }).then(
            () => 'unexpected: it was answered',
            () => undefined,
        );
        await wait(1000);
        leaving.abort('the user');
        const answer = await left;
        if (answer) return answer;
        for (let tries = 0; tries < 100; tries += 1) {
            if ((await said(how.ask, how.askArguments)).includes(how.expect)) return 'ok';
            await wait(100);
        }
        return 'the server does not know';
    });
    await step('updates', async (how) => {
        if (told.version >= '2026') await client.listen({ resourceSubscriptions: [how.uri] });
        else await client.subscribeResource({ uri: how.uri });
        await said(how.tool, how.arguments ?? {});
        await update;
    });
    await Promise.race([client.close(), wait(2000)]);
} catch (error) {
    told.connect ??= why(error);
}
console.log(JSON.stringify(told));
process.exit(0);
