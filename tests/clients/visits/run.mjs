//! Lets stock clients visit a running cluster and kills an instance while the call of each is in flight. Started by
//! scripts/clients.sh, which starts the cluster and the servers. Prints a table in Markdown; exit code 1 when a row is not
//! as `expected` says.

import { execFile, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';

import { rows } from './rows.mjs';

const { values: options } = parseArgs({
  options: {
    url: { type: 'string' },
    ports: { type: 'string' },
    'run-dir': { type: 'string' },
    restart: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: '' },
    write: { type: 'string' },
  },
});
const ports = options.ports.split(' ').filter(Boolean);
const rounds = Number(options.rounds);

/** How long the call in flight takes; it is killed at a third of it. */
const CALL_MS = 3_000;
/** A visit that is not over by then hangs; the longest patience of a client is 60 s. */
const VISIT_LIMIT_MS = 120_000;
/** Between two looks at the cluster. */
const LOOK_MS = 100;
/** Until all instances are ready again. */
const READY_LIMIT_MS = 60_000;

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** The visit's events as they come, and `ended`: all of them with what it wrote beside them. */
function startVisit(row, key) {
  const path = row.sse ? `sse/${row.service}` : `mcp/${row.service}`;
  const [tool, args, quick, quickArgs] = row.server.calls(key, CALL_MS);
  const command = row.client.python ? [here(`${row.client.python}/.venv/bin/python`), here('visit.py')] : [process.execPath, here('visit.mjs')];
  const visit = spawn(
    command[0],
    [command[1], row.client.id, `${options.url}/${path}`, tool, JSON.stringify(args), quick, JSON.stringify(quickArgs)],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const events = [];
  const seen = new Map();
  let noise = '';
  createInterface({ input: visit.stderr }).on('line', (line) => (noise = `${noise}${line.slice(0, 300)}\n`.slice(-4000)));
  createInterface({ input: visit.stdout }).on('line', (line) => {
    const event = JSON.parse(line);
    event.at = performance.now();
    events.push(event);
    seen.get(event.event)?.();
  });
  const limit = setTimeout(() => visit.kill('SIGKILL'), VISIT_LIMIT_MS);
  const ended = new Promise((resolve) => visit.on('close', () => resolve({ events, noise }))).finally(() =>
    clearTimeout(limit),
  );
  const calling = new Promise((resolve) => seen.set('calling', resolve));
  return { calling, ended };
}

async function json(port, path) {
  const response = await fetch(`http://127.0.0.1:${port}${path}`);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

/**
 * The port of the instance to be killed, for the newest session of the service: the one that owns the session, which holds
 * the connection to the server, or, in every second round, one that holds a stream of the client.
 */
async function victim(service, number) {
  const { sessions } = await json(ports[0], '/mcp/router/sessions?limit=100');
  const [newest] = sessions.filter((session) => session.service === service).sort((a, b) => b.createdMs - a.createdMs);
  const owner = ports[(/^router-instance-(\d+)$/.exec(newest?.owner ?? '')?.[1] ?? 0) - 1];
  if (!owner || number % 2) return owner;
  const infos = await Promise.all(ports.map((port) => json(port, '/actuator/info')));
  // A stream of one call sorts behind that of the session.
  const holders = Object.entries(newest.streams).sort().map(([, incarnation]) => incarnation);
  const holder = infos.findIndex(({ instance }) => instance.incarnation === holders.at(-1));
  return ports[holder] ?? owner;
}

async function untilReady() {
  const deadline = performance.now() + READY_LIMIT_MS;
  for (const port of ports) {
    while (!(await fetch(`http://127.0.0.1:${port}/actuator/health/readiness`).then(({ ok }) => ok, () => false))) {
      if (performance.now() > deadline) throw new Error(`the instance on port ${port} does not come back`);
      await sleep(LOOK_MS);
    }
  }
}

/** One visit with one kill; what was seen. */
async function round(row, number) {
  const key = `${row.sse ? 'sse' : 'mcp'}-${row.service}-${row.client.id}-${row.client.version}-${number}-${process.pid}`;
  const { calling, ended } = startVisit(row, key);
  const began = await Promise.race([calling.then(() => true), ended.then(() => false)]);
  let killed;
  if (began) {
    await sleep(CALL_MS / 3);
    let port;
    while (!(port = await victim(row.service, number))) await sleep(LOOK_MS);
    process.kill(Number(readFileSync(`${options['run-dir']}/router-${port}.pid`, 'utf8').split('\n')[0]), 'SIGKILL');
    killed = performance.now();
  }
  const { events, noise } = await ended;
  if (killed) {
    await promisify(execFile)('bash', ['-c', options.restart]);
    await untilReady();
  }
  const after = events.slice(events.findIndex(({ event }) => event === 'calling') + 1);
  const [first, second] = began ? after : [events.at(-1)];
  return {
    key,
    connected: began,
    answered: first?.event === 'answered' && !first.text.startsWith('isError'),
    first: first?.text ?? 'no answer',
    survived: second?.event === 'after' && !second.text.startsWith('isError'),
    second: second?.text ?? '',
    ms: first && killed ? Math.round(first.at - killed) : undefined,
    noise,
  };
}

const short = (text) => text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ').slice(0, 110);

/** How often each call of a round was carried out, where the server counts: the later call is one more. */
function timesRun(row, { second }) {
  const counted = row.server.counts && /: (\d+)$/.exec(second)?.[1];
  return counted ? Number(counted) - 1 : undefined;
}

const table = [];
function put(line) {
  console.log(line);
  table.push(line);
}

let isAsExpected = true;
put('| client | transport | server | the call in flight | a later call | times that the call ran |');
put('|---|---|---|---|---|---|');
for (const row of rows.filter(({ label }) => label.includes(options.only))) {
  const seen = [];
  for (let number = 1; number <= rounds; number += 1) seen.push(await round(row, number));
  const answered = seen.filter((one) => one.answered);
  const survived = seen.filter((one) => one.survived);
  const failures = [...new Set(seen.filter((one) => !one.answered).map(({ first }) => short(first)))];
  const ran = new Set(seen.map((one) => timesRun(row, one)).filter((times) => times !== undefined));
  const slowest = Math.max(...answered.map(({ ms }) => ms));
  const inFlight = [
    `answered ${answered.length} of ${rounds}`,
    ...(answered.length ? [`at most ${(Math.max(0, slowest - (CALL_MS * 2) / 3) / 1000).toFixed(1)} s late`] : []),
    ...failures.map((text) => `"${text}"`),
  ].join(', ');
  const later = row.client.once ? '–' : `${survived.length} of ${rounds}`;
  const times = ran.size ? [...ran].sort().join(', ') : '–';
  put(
    `| ${row.client.label} | ${row.sse ? 'SSE' : 'Streamable HTTP'} | ${row.server.label}, ${row.service.endsWith('-sse') ? 'SSE' : 'Streamable HTTP'} | ${inFlight} | ${later} | ${times} |`,
  );
  const isFine =
    (row.mayFail || answered.length === rounds) &&
    (row.client.once || row.mayEnd || survived.length === rounds) &&
    [...ran].every((times) => times <= 1);
  if (!isFine) {
    isAsExpected = false;
    for (const { first, second, noise } of seen) console.error(`${row.label}: ${first}; ${second}\n${noise}`);
  }
}
/** Between its two marks in the file. */
if (options.write) {
  const [begin, end] = ['<!-- table: scripts/clients.sh --write -->\n', '<!-- /table -->'];
  const text = readFileSync(options.write, 'utf8');
  const [before, after] = [text.split(begin)[0], text.split(end)[1]];
  writeFileSync(options.write, `${before}${begin}${table.join('\n')}\n${end}${after}`);
}
process.exit(isAsExpected ? 0 : 1);
