//! The scenario `basics`: every request a plain client makes, with the content of every answer checked.

import { expect } from './report.mjs';
import { Session, sampledAnswer, textOf } from './session.mjs';

/** The tools the server must have, with the arguments each must ask for. */
const BASE_TOOLS = {
  getAllPersons: [],
  getPersonById: ['id'],
  addPerson: ['firstName', 'lastName', 'age', 'nationality', 'gender'],
  get_system_info: [],
  list_servers: [],
};
const WRITING_TOOL = 'addPerson';
const PERSON_FIELDS = ['id', 'firstName', 'lastName', 'age', 'nationality', 'gender'];
const PERSONS_AT_START = 100;

/** Text that goes wrong when a frame is split at the wrong characters or decoded by halves. */
const AWKWARD_TEXT = 'a"b\\c\n\nevent: endpoint\r\ndata: {}\r: x\t\u2028\u2029\u0085 é 漢字 😀 \u0000 end';

export async function basics(report, options) {
  const session = await Session.open(options.url, options);
  report.facts.sessionIds = [session.sessionId];
  report.facts.server = session.client.getServerVersion();
  report.facts.protocolVersion = session.transport._protocolVersion;
  report.check('initialize', Boolean(report.facts.server?.name), report.facts.server);
  await report.step('ping', async () => void (await session.ping()));

  let tools = [];
  await report.step('tools/list', async () => {
    tools = await listAll((page) => session.client.listTools(page, { timeout: session.callMs }), 'tools');
    report.facts.tools = tools.map(({ name }) => name);
    return report.facts.tools.join(' ');
  });
  checkBaseTools(report, tools);
  await callEveryTool(report, session, tools);

  await report.step('resources/list and resources/read', () => readResources(session));
  await report.step('logging/setLevel', async () => {
    expect(session.client.getServerCapabilities()?.logging, 'no logging capability');
    for (const level of ['debug', 'error', 'info']) {
      await session.client.setLoggingLevel(level, { timeout: session.callMs });
    }
  });
  await report.step('an unknown tool gives an error', () => expectError(session, 'no_such_tool', {}));
  await report.step('a missing argument gives an error', () => expectError(session, 'getPersonById', {}));
  await report.step('a person that is not there gives an error', () =>
    expectError(session, 'getPersonById', { id: 99_999_999 }),
  );
  await report.step('the session lives on after errors', async () => {
    await session.ping();
    await session.call('list_servers');
  });
  report.check('session stayed open', session.alive);
  report.facts.notices = session.notices;
  await session.close();
}

async function listAll(listPage, member) {
  const items = [];
  let cursor;
  do {
    const page = await listPage(cursor ? { cursor } : {});
    items.push(...page[member]);
    cursor = page.nextCursor;
  } while (cursor && items.length < 10_000);
  return items;
}

function checkBaseTools(report, tools) {
  for (const [name, required] of Object.entries(BASE_TOOLS)) {
    const tool = tools.find((candidate) => candidate.name === name);
    const schema = tool?.inputSchema;
    const properties = Object.keys(schema?.properties ?? {});
    const complete =
      schema?.type === 'object' &&
      required.every((argument) => properties.includes(argument) && schema.required?.includes(argument)) &&
      Boolean(tool.description);
    report.check(`tool ${name} has a description and a schema`, complete, tool ? { properties } : 'not listed');
    const readOnly = tool?.annotations?.readOnlyHint;
    const right = name === WRITING_TOOL ? readOnly === false : readOnly === true;
    report.check(`tool ${name} is marked right`, right, { readOnlyHint: readOnly ?? null });
  }
}

/** A tool that is listed here but not known below fails the check: nothing goes uncalled. */
async function callEveryTool(report, session, tools) {
  for (const { name } of tools) {
    await report.step(`call ${name}`, () => {
      expect(Object.hasOwn(CALLS, name), 'the driver does not know this tool');
      return CALLS[name](session);
    });
  }
}

const CALLS = {
  async getAllPersons(session) {
    const persons = listIn(await session.callRaw('getAllPersons'));
    expect(persons.length >= PERSONS_AT_START, `${persons.length} persons`);
    persons.forEach(expectPerson);
    expect(new Set(persons.map(({ id }) => id)).size === persons.length, 'ids are not unique');
    return `${persons.length} persons`;
  },
  async getPersonById(session) {
    const known = listIn(await session.callRaw('getAllPersons'))[41];
    const person = personIn(await session.callRaw('getPersonById', { id: known.id }));
    expectSame(person, known);
    return person;
  },
  async addPerson(session) {
    const wanted = {
      firstName: 'Zoë',
      lastName: `Driver-${crypto.randomUUID()}`,
      age: 41,
      nationality: 'Icelandic',
      gender: 'female',
    };
    const added = personIn(await session.callRaw('addPerson', wanted));
    expectPerson(added);
    expectSame(added, { ...wanted, id: added.id });
    expectSame(personIn(await session.callRaw('getPersonById', { id: added.id })), added);
    return `id ${added.id}`;
  },
  async get_system_info(session) {
    const facts = contentOf(await session.callRaw('get_system_info'));
    expect(facts && typeof facts === 'object' && Object.keys(facts).length > 0, 'no members');
    return Object.keys(facts).join(' ');
  },
  async list_servers(session) {
    const servers = listIn(await session.callRaw('list_servers'));
    expect(servers.length > 0, 'no servers');
    return servers;
  },
  async wait(session) {
    const startedAt = performance.now();
    const text = await session.call('wait', { ms: 120, text: 'waited-for' });
    const elapsed = performance.now() - startedAt;
    expect(text === 'waited-for', `answer: ${text}`);
    expect(elapsed >= 115, `answered after ${elapsed} ms`);
  },
  async increment(session) {
    await incrementExactly(session, `basics-${crypto.randomUUID()}`, 3);
  },
  async counts(session) {
    const { counters, distinctCalls, repeatedCalls } = contentOf(await session.callRaw('counts'));
    expect(counters && distinctCalls && Array.isArray(repeatedCalls), 'a member is missing');
  },
  async ask_client(session) {
    const prompt = 'what is written on the wall?';
    const text = await session.call('ask_client', { prompt });
    expect(text.includes(sampledAnswer(prompt)), `answer: ${text}`);
  },
  async payload(session) {
    const text = await session.call('payload', { bytes: 1000 });
    expect(Buffer.byteLength(text) === 1000, `${Buffer.byteLength(text)} bytes`);
  },
  async echo(session) {
    for (const sent of ['plain', AWKWARD_TEXT, ' spaces around ']) {
      const text = await session.call('echo', { text: sent });
      expect(text === sent, `sent ${JSON.stringify(sent)}, got ${JSON.stringify(text)}`);
    }
  },
};

/** Counts `key`, which is new to the server, `times` times, and checks that the server ran each call once. */
export async function incrementExactly(session, key, times) {
  for (let i = 1; i <= times; i += 1) {
    const { value } = contentOf(await session.callRaw('increment', { key }));
    expect(value === i, `call ${i} made it ${value}`);
  }
  const { counters, repeatedCalls } = contentOf(await session.callRaw('counts'));
  expect(counters[key] === times, `${times} calls counted as ${counters[key]}`);
  expect(!repeatedCalls.some((call) => call.key === key), 'a call ran more than once');
}

async function readResources(session) {
  const resources = await listAll(
    (page) => session.client.listResources(page, { timeout: session.callMs }),
    'resources',
  );
  expect(resources.length > 0, 'no resources');
  for (const { uri } of resources) {
    const { contents } = await session.client.readResource({ uri }, { timeout: session.callMs });
    expect(contents.length > 0 && contents.every((part) => part.uri === uri), `${uri}: contents of another resource`);
    expect(
      contents.every(({ text, blob }) => (text ?? blob ?? '').length > 0),
      `${uri}: empty`,
    );
  }
  return resources.map(({ uri }) => uri).join(' ');
}

/** An error may be the protocol's own or a result that is marked as one; both are allowed by the specification. */
async function expectError(session, tool, args) {
  let result;
  try {
    result = await session.callRaw(tool, args);
  } catch (error) {
    // Codes of the SDK's own making (time-out, connection closed) are not the server's answer.
    expect(typeof error.code === 'number' && error.code !== -32000 && error.code !== -32001, error.message);
    return `error ${error.code}: ${error.message}`;
  }
  expect(result.isError === true, `answered without an error: ${textOf(result)}`);
  return `isError: ${textOf(result)}`;
}

function contentOf(result) {
  expect(!result.isError, () => `answered an error: ${textOf(result)}`);
  return result.structuredContent ?? JSON.parse(textOf(result));
}

function listIn(result) {
  const content = contentOf(result);
  const list = Array.isArray(content) ? content : Object.values(content).find(Array.isArray);
  expect(list, 'no list in the answer');
  return list;
}

function personIn(result) {
  const content = contentOf(result);
  return content.person ?? content;
}

function expectPerson(person) {
  const missing = PERSON_FIELDS.filter((field) => person[field] === undefined || person[field] === '');
  expect(missing.length === 0, () => `person ${JSON.stringify(person)} lacks ${missing}`);
}

function expectSame(person, wanted) {
  for (const field of PERSON_FIELDS) {
    expect(person[field] === wanted[field], () => `${field}: ${person[field]} instead of ${wanted[field]}`);
  }
}
