//! The scenarios `bridge` and `survive`: a client with a session at a server that has none (tests/fixtures/modern-tools). Every
//! thing that either side may say is said once; then the same while the instance between them dies.

import {
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { expect, sleep } from './report.mjs';
import { Session, sampledAnswer, textOf } from './session.mjs';

const COUNTER = 'test://counter';

/** A session of a client that can all; `answer`: what it says to an elicitation. */
async function open(options, answer = () => ({ action: 'accept', content: { name: 'Ada' } })) {
  const capabilities = { sampling: {}, elicitation: {}, roots: {} };
  const session = await Session.open(options.url, { ...options, capabilities });
  session.client.setRequestHandler(ElicitRequestSchema, ({ params }) => answer(params));
  session.client.setRequestHandler(ListRootsRequestSchema, () => ({ roots: [{ uri: 'file:///here', name: 'here' }] }));
  return session;
}

export async function bridge(report, options) {
  const session = await open(options);
  const { client } = session;
  const json = async (tool) => JSON.parse(await session.call(tool));
  const told = (schema) => new Promise((resolve) => client.setNotificationHandler(schema, resolve));
  await report.step('the handshake', () => {
    expect(client.getServerVersion()?.name === 'modern-tools', client.getServerVersion());
    return session.transport._protocolVersion;
  });
  await report.step('tools/list', async () => {
    const { tools } = await client.listTools();
    expect(tools.some(({ name }) => name === 'echo'), 'no echo');
  });
  await report.step('a call', async () => expect((await session.call('echo', { text: 'é漢😀' })) === 'é漢😀', 'no echo'));
  await report.step('an argument that stands in a header', async () => {
    const text = await session.call('located', { region: 'here' });
    expect(text === 'here here', text);
  });
  await report.step('progress', async () => {
    const seen = [];
    await session.call('progress', { steps: 3 }, { onprogress: ({ progress }) => seen.push(progress) });
    expect(seen.join() === '1,2,3', seen.join());
  });
  await report.step('log messages from a level on', async () => {
    const seen = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void seen.push(params.level));
    await client.setLoggingLevel('error');
    await session.call('log');
    expect(seen.join() === 'error', seen.join());
  });
  await report.step('elicitation', async () => {
    const { state, said } = await json('elicit');
    expect(state === 'elicit was asked' && said[0].content.name === 'Ada', { state, said });
  });
  await report.step('two elicitations, one after the other', async () => {
    const text = await session.call('elicit_twice');
    expect(text === 'Ada and Ada', text);
  });
  await report.step('sampling', async () => {
    const { said } = await json('sample');
    expect(said[0].result.content.text === sampledAnswer('Who are you?'), said);
  });
  await report.step('roots', async () => expect((await json('roots')).said[0].roots[0].uri === 'file:///here', 'none'));
  await report.step('all of it in one round', async () => {
    const kinds = (await json('ask_all')).said.map(({ kind }) => kind).join();
    expect(kinds === 'elicit,sampling,roots', kinds);
  });
  await report.step('a cancelled call ends, and others go on', async () => {
    const abort = new AbortController();
    const slow = session.call('slow', { ms: 60_000, key: 'cancelled' }, { signal: abort.signal });
    setTimeout(() => abort.abort('the test cancels'), 300);
    const outcome = await slow.catch((error) => error);
    expect(outcome instanceof Error, outcome);
    await session.call('echo', { text: 'on' });
  });
  await report.step('prompts and resources', async () => {
    const { messages } = await client.getPrompt({ name: 'greet', arguments: { name: 'Ada' } });
    expect(messages[0].content.text === 'Greet Ada.', messages);
    const { contents } = await client.readResource({ uri: COUNTER });
    expect(contents[0].uri === COUNTER, contents);
  });
  await report.step('a subscription', async () => {
    const updated = told(ResourceUpdatedNotificationSchema);
    await client.subscribeResource({ uri: COUNTER });
    await session.call('change', { what: 'counter' });
    expect((await updated).params.uri === COUNTER, 'another');
    await client.unsubscribeResource({ uri: COUNTER });
  });
  await report.step('a list that changes', async () => {
    const changed = told(ToolListChangedNotificationSchema);
    await session.call('change', { what: 'tools' });
    await changed;
  });
  await report.step('an unknown tool gives an error', async () => {
    const outcome = await session.callRaw('none').catch((error) => error);
    expect(outcome instanceof Error || outcome.isError, outcome);
  });
  await report.step('ping', () => session.ping());
  report.check('session stayed open', session.alive);
  report.facts.notices = session.notices;
  await session.close();
}

/** Somebody kills the instance that has the session once `in-flight` and `asked` have begun at the server. */
export async function survive(report, options) {
  const session = await open(options, async () => {
    // A person who thinks for longer than an instance takes to be replaced.
    await sleep(options.ms);
    return { action: 'accept', content: { name: 'Ada' } };
  });
  const before = session.sessionId;
  await report.step('a call before', async () => expect((await session.call('write', { key: 'before' })) === '1', 'not once'));
  const asked = session.call('elicit', { key: 'asked' });
  const running = session.call('slow', { ms: 600_000, key: 'in-flight' }).catch((error) => error);
  await report.step('the call that ran is of unknown outcome', async () => {
    const error = await running;
    expect(error?.data?.outcome === 'unknown' && error.data.retry === false, error);
  });
  await report.step('the call that waited for its client goes on', async () => {
    expect(JSON.parse(await asked).said[0].content.name === 'Ada', 'another answer');
  });
  await report.step('the session goes on', async () => {
    expect((await session.call('write', { key: 'after' })) === '1', 'not once');
    expect(session.sessionId === before, `${session.sessionId} instead of ${before}`);
  });
  report.check('session stayed open', session.alive);
  report.facts.notices = session.notices;
  await session.close();
}
