//! Lets stock clients visit a running cluster and kills an instance while the call of each is in flight. Started by
//! scripts/clients.sh, which starts the cluster and the servers. Prints a table in Markdown; exit code 1 when a row is not
//! as `expected` says.

import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import { Cluster, short, startVisit, writeTable } from './cluster.mjs';
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
const cluster = new Cluster(options.ports.split(' ').filter(Boolean), options['run-dir'], options.restart);
const rounds = Number(options.rounds);

/** How long the call in flight takes; it is killed at a third of it. */
const CALL_MS = 3_000;
/** A visit that is not over by then hangs; the longest patience of a client is 60 s. */
const VISIT_LIMIT_MS = 120_000;

/** One visit with one kill; what was seen. */
async function round(row, number) {
  const key = `${row.sse ? 'sse' : 'mcp'}-${row.service}-${row.client.id}-${row.client.version}-${number}-${process.pid}`;
  let calls;
  const calling = new Promise((resolve) => (calls = resolve));
  const on = ({ event }) => event === 'calling' && calls();
  const { ended } = startVisit(row, options.url, { key, callMs: CALL_MS, limitMs: VISIT_LIMIT_MS, on });
  const began = await Promise.race([calling.then(() => true), ended.then(() => false)]);
  let killed;
  if (began) {
    await sleep(CALL_MS / 3);
    // The one that owns the session, which holds the connection to the server, or, in every second round, one that holds a stream
    // of the client.
    const { owner, holder } = await cluster.session(row.service);
    killed = cluster.kill(number % 2 ? owner : holder);
  }
  const { events, noise } = await ended;
  if (killed) await cluster.mend();
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
if (options.write) writeTable(options.write, 'scripts/clients.sh --write', table);
process.exit(isAsExpected ? 0 : 1);
