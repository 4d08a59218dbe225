//! Stock clients behind either configuration of nginx, and what each sees of it when the instance that serves its stream is killed,
//! again and again, each time with a call in flight. Started by scripts/clients.sh --fronts. Prints a table in Markdown; exit code 1 when a
//! row is worse than rows.mjs expects.

import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import { Cluster, short, startVisit, writeTable } from './cluster.mjs';
import { survivors } from './rows.mjs';

const { values: options } = parseArgs({
  options: {
    fronts: { type: 'string' },
    tls: { type: 'string', default: '' },
    ca: { type: 'string', default: '' },
    ports: { type: 'string' },
    'run-dir': { type: 'string' },
    restart: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: '' },
    transport: { type: 'string', default: 'mixed' },
    write: { type: 'string', multiple: true, default: [] },
  },
});
const cluster = new Cluster(options.ports.split(' ').filter(Boolean), options['run-dir'], options.restart);
const urls = (text) => text.split(' ').map((front) => front.split('='));
const fronts = urls(options.fronts);
/** Where they speak HTTPS and HTTP/2. */
const tls = Object.fromEntries(urls(options.tls));
const http2 = { VISIT_HTTP2: '1', SSL_CERT_FILE: options.ca, NODE_EXTRA_CA_CERTS: options.ca };
const kills = Number(options.rounds);

/** How long each call in flight takes. */
const CALL_MS = 1_500;
/** The instance is killed so long before the answer is due: what the client then waits for is little else than the failover. */
const BEFORE_MS = 100;
/** After this a call is given up: nothing that was answered late has taken half as long. */
const CALL_LIMIT_S = 15;
const VISIT_LIMIT_MS = 120_000;

/** What the client saw: for each kill whether the call was answered and how late, and whether the session goes on. */
async function outlive(row, url, front) {
  const key = `${front}-${row.sse ? 'sse' : 'mcp'}-${row.client.id}-${row.client.version}${row.client.http2 ? '-h2' : ''}-${process.pid}`;
  const heard = [];
  let wake = () => {};
  const on = (event) => {
    heard.push(event);
    wake();
  };
  const env = { VISIT_CALLS: String(kills), VISIT_CALL_LIMIT_S: String(CALL_LIMIT_S), NO_PROXY: '*', ...(row.client.http2 ? http2 : {}) };
  const visit = startVisit(row, url, { key, callMs: CALL_MS, limitMs: VISIT_LIMIT_MS, env, on });
  let isOver = false;
  const ended = visit.ended.then((all) => {
    isOver = true;
    wake();
    return all;
  });
  const next = async (...names) => {
    for (;;) {
      while (heard.length) {
        const event = heard.shift();
        if (names.includes(event.event) || event.event === 'failed') return event;
      }
      if (isOver) return { event: 'failed', text: 'the client has ended' };
      await new Promise((resolve) => (wake = resolve));
    }
  };
  const calls = [];
  const handles = new Set();
  let isAlive = true;
  while (isAlive && calls.length < kills) {
    const ready = await next('ready');
    if (ready.event === 'failed') {
      calls.push({ text: ready.text });
      isAlive = false;
      break;
    }
    visit.say();
    const calling = await next('calling');
    await sleep(CALL_MS / 3);
    if (isOver || heard.some(({ event }) => event === 'failed')) {
      // Dead already: no instance needs to die for it.
      calls.push({ text: (await next()).text });
      continue;
    }
    const { handle, holder } = await cluster.session(row.service);
    handles.add(handle);
    await sleep(Math.max(0, calling.at + CALL_MS - BEFORE_MS - performance.now()));
    cluster.kill(holder);
    const answer = await next('answered');
    const isAnswered = answer.event === 'answered' && !answer.text.startsWith('isError');
    calls.push({ text: answer.text, lateMs: isAnswered ? Math.max(0, answer.at - calling.at - CALL_MS) : undefined });
    await cluster.mend();
  }
  const after = isAlive ? await next('after') : undefined;
  const { noise } = await ended;
  return {
    calls,
    answered: calls.filter(({ lateMs }) => lateMs !== undefined),
    isKept: after?.event === 'after' && !after.text.startsWith('isError'),
    isNew: handles.size > 1,
    after: after?.text ?? '',
    noise,
  };
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)];
const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;

const table = [];
function put(line) {
  console.log(line);
  table.push(line);
}

const titles = { stock: 'nginx.conf', edge: 'nginx-edge.conf' };
put(`| client | transport | ${fronts.map(([name]) => `behind ${titles[name]}`).join(' | ')} |`);
put(`|---|---|${fronts.map(() => '---').join('|')}|`);
let isAsExpected = true;
const all = Object.fromEntries(fronts.map(([name]) => [name, []]));
const wanted = ({ label, sse, kind }) =>
  (label.includes(options.only) || kind === options.only) &&
  (options.transport === 'mixed' || (options.transport === 'sse') === Boolean(sse));
for (const row of survivors.filter(wanted)) {
  const cells = [];
  for (const [name, url] of fronts) {
    const seen = await outlive(row, row.client.http2 ? tls[name] : url, name);
    const late = seen.answered.map(({ lateMs }) => lateMs);
    if (row.kind !== 'framework') all[name].push(...late);
    const session = seen.isKept ? (seen.isNew ? 'a new one' : 'kept') : '**lost**';
    const count = `${late.length} of ${kills}`;
    const slowest = late.length ? [seconds(Math.max(...late))] : [];
    cells.push([session, late.length === kills ? count : `**${count}**`, ...slowest].join(', '));
    if (!(seen.isKept && late.length === kills) && !row.mayFail?.includes(name)) {
      isAsExpected = false;
      console.error(`${row.label} (${name}): ${seen.calls.map(({ text }) => short(text ?? '')).join('; ')}; ${seen.after}\n${seen.noise}`);
    }
  }
  put(`| ${row.client.label} | ${row.sse ? 'SSE' : 'Streamable HTTP'} | ${cells.join(' | ')} |`);
}
const spread = fronts
  .filter(([name]) => all[name].length)
  .map(([name]) => `${titles[name]} ${all[name].length}, p50 ${seconds(median(all[name]))}, the slowest ${seconds(Math.max(...all[name]))}`);
if (spread.length) put(`\nCalls of the SDKs and of mcp-remote that were answered, and how late: ${spread.join('; ')}.`);
for (const file of options.write) writeTable(file, 'scripts/clients.sh --fronts both --write', table);
process.exit(isAsExpected ? 0 : 1);
