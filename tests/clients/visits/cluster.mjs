//! What the two runners of visits share: a visit as a process, and the cluster that it goes to.

import { execFile, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** Between two looks at the cluster. */
export const LOOK_MS = 100;
/** Until all instances are ready again. */
const READY_LIMIT_MS = 60_000;

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** The program of a client, before its arguments. `rmcp`: the one that scripts/clients.sh has built. */
function program(client) {
  if (client.rmcp) return [`${process.env.RMCP_BIN}/visit`];
  return client.python
    ? [here(`${client.python}/.venv/bin/python`), here('visit.py')]
    : [process.execPath, here('visit.mjs')];
}

/**
 * Starts the visit of a row's client at `url`. `on(event)` hears each event; `say()` sends it a line; `ended` has all events with what it
 * wrote beside them.
 */
export function startVisit(row, url, { key, callMs, limitMs, env = {}, on = () => {} }) {
  const path = row.sse ? `sse/${row.service}` : `mcp/${row.service}`;
  const [tool, args, quick, quickArgs] = row.server.calls(key, callMs);
  const [command, ...before] = program(row.client);
  const visit = spawn(
    command,
    [...before, row.client.id, `${url}/${path}`, tool, JSON.stringify(args), quick, JSON.stringify(quickArgs)],
    { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } },
  );
  // It may have ended by itself.
  visit.stdin.on('error', () => {});
  const events = [];
  let noise = '';
  createInterface({ input: visit.stderr }).on('line', (line) => (noise = `${noise}${line.slice(0, 300)}\n`.slice(-4000)));
  createInterface({ input: visit.stdout }).on('line', (line) => {
    const event = { ...JSON.parse(line), at: performance.now() };
    events.push(event);
    on(event);
  });
  const limit = setTimeout(() => visit.kill('SIGKILL'), limitMs);
  const ended = new Promise((resolve) => visit.on('close', () => resolve({ events, noise }))).finally(() =>
    clearTimeout(limit),
  );
  return { ended, say: () => visit.stdin.write('\n') };
}

/** Its instances, on these ports. */
export class Cluster {
  constructor(ports, runDir, restart) {
    Object.assign(this, { ports, runDir, restart });
  }

  async json(port, path) {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response.json();
  }

  /** The newest session of the service, and the ports of the instances that own it and that hold a stream of its client. */
  async newest(service) {
    const { sessions } = await this.json(this.ports[0], '/mcp/router/sessions?limit=100');
    const [newest] = sessions.filter((session) => session.service === service).sort((a, b) => b.createdMs - a.createdMs);
    const owner = this.ports[(/^router-instance-(\d+)$/.exec(newest?.owner ?? '')?.[1] ?? 0) - 1];
    if (!owner) return {};
    const infos = await Promise.all(this.ports.map((port) => this.json(port, '/actuator/info')));
    // A stream of one call sorts behind that of the session.
    const holders = Object.entries(newest.streams).sort().map(([, incarnation]) => incarnation);
    const holder = this.ports[infos.findIndex(({ instance }) => instance.incarnation === holders.at(-1))];
    return { handle: newest.handle, owner, holder: holder ?? owner };
  }

  /** Waits until there is one. */
  async session(service) {
    for (;;) {
      const newest = await this.newest(service);
      if (newest.owner) return newest;
      await sleep(LOOK_MS);
    }
  }

  kill(port) {
    process.kill(Number(readFileSync(`${this.runDir}/router-${port}.pid`, 'utf8').split('\n')[0]), 'SIGKILL');
    return performance.now();
  }

  /** Starts what was killed, and waits for all of it. */
  async mend() {
    await promisify(execFile)('bash', ['-c', this.restart]);
    const deadline = performance.now() + READY_LIMIT_MS;
    for (const port of this.ports) {
      while (!(await fetch(`http://127.0.0.1:${port}/actuator/health/readiness`).then(({ ok }) => ok, () => false))) {
        if (performance.now() > deadline) throw new Error(`the instance on port ${port} does not come back`);
        await sleep(LOOK_MS);
      }
    }
  }
}

/** One line of text for a cell. */
export const short = (text, length = 110) => text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ').slice(0, length);

/** Puts the lines of a table between its two marks in a file. */
export function writeTable(file, name, lines) {
  const [begin, end] = [`<!-- table: ${name} -->\n`, '<!-- /table -->'];
  const text = readFileSync(file, 'utf8');
  const at = text.indexOf(begin);
  const stop = text.indexOf(end, at);
  if (at < 0 || stop < 0) throw new Error(`${file} has no marks of "${name}"`);
  writeFileSync(file, `${text.slice(0, at + begin.length)}${lines.join('\n')}\n${text.slice(stop)}`);
}
