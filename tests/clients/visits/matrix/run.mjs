//! Lets stock clients of either era visit stock servers of either era, straight and through the router. Started by scripts/matrix.sh,
//! which starts both. Prints a table in Markdown; exit code 1 when something works straight and not through the router.
//!
//!     node run.mjs --url URL --direct "NAME=PORT …" [--only TEXT] [--write FILE]

import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';

import { short, writeTable } from '../cluster.mjs';

const { values: options } = parseArgs({
  options: {
    url: { type: 'string' },
    direct: { type: 'string' },
    only: { type: 'string', default: '' },
    write: { type: 'string' },
  },
});
/** A visit that is not over by then hangs. */
const VISIT_LIMIT_MS = 150_000;

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const npm = (name) => JSON.parse(readFileSync(here(`../node_modules/${name}/package.json`))).version;
const pypi = (folder, name) =>
  new RegExp(`^${name}==(\\S+)`, 'm').exec(readFileSync(here(`${folder}/requirements.txt`), 'utf8'))[1];

const lock = readFileSync(here('../../rmcp/Cargo.lock'), 'utf8');
const rmcp = (major) => [...lock.matchAll(/name = "rmcp"\nversion = "([^"]+)"/g)].map(([, one]) => one).find((one) => one.startsWith(major));

const slow = { tool: 'slow', arguments: { key: 'KEY', ms: 60_000 } };
/** What is asked of the servers on Python frameworks (server.py) and on rmcp, feature by feature. */
const ofPython = {
  list: 'echo',
  call: { tool: 'echo', arguments: { text: 'hi' }, expect: 'Echo: hi' },
  progress: { tool: 'count', arguments: { to: 5 }, expect: 'counted to 5' },
  ask: { tool: 'ask', arguments: {}, expect: 'Hello, Ada' },
  cancel: { ...slow, ask: 'cancelled', askArguments: { key: 'KEY' }, expect: '1 cancelled' },
  updates: { uri: 'note://matrix', tool: 'change' },
};
const ofFixtures = {
  list: 'test_simple_text',
  call: { tool: 'test_simple_text', arguments: {}, expect: 'This is a simple text' },
  progress: { tool: 'test_tool_with_progress', arguments: {}, expect: '' },
  updates: { uri: 'test://watched-resource', tool: 'touch', arguments: { uri: 'test://watched-resource' } },
};
const ofModern = {
  ...ofFixtures,
  ask: { tool: 'test_input_required_result_elicitation', arguments: {}, expect: 'Hello, Ada' },
  cancel: { ...slow, ask: 'counted', askArguments: { key: 'KEY' }, expect: '"cancelled":1' },
};
const features = ['list', 'call', 'progress', 'ask', 'cancel', 'updates'];

const typescript2 = `server ${npm('@modelcontextprotocol/server')} (TypeScript)`;
/** By the name of their service. */
const servers = {
  ts1: {
    label: `sdk ${npm('@modelcontextprotocol/sdk')} (TypeScript)`,
    spec: { ...ofFixtures, ask: { tool: 'test_elicitation', arguments: { message: 'Name?' }, expect: 'Ada' } },
  },
  ts2: { label: `${typescript2}, both eras`, spec: ofModern },
  ts2m: { label: `${typescript2}, 2026-07-28 alone`, spec: ofModern },
  everything: {
    label: `server-everything ${npm('@modelcontextprotocol/server-everything')}`,
    spec: {
      list: 'echo',
      call: { tool: 'echo', arguments: { message: 'hi' }, expect: 'Echo: hi' },
      progress: { tool: 'trigger-long-running-operation', arguments: { duration: 1, steps: 4 }, expect: 'completed' },
    },
  },
  py1: { label: `mcp ${pypi('python-1', 'mcp')} (Python)`, spec: ofPython },
  py2: { label: `mcp ${pypi('..', 'mcp')} (Python)`, spec: ofPython },
  fm2: { label: `fastmcp ${pypi('python-1', 'fastmcp')}`, spec: ofPython },
  fm4: { label: `fastmcp ${pypi('..', 'fastmcp')}`, spec: ofPython },
  rmcp0: { label: `rmcp ${rmcp('0.')} (Rust)`, spec: ofPython },
  rmcp3: { label: `rmcp ${rmcp('3.')} (Rust)`, spec: ofPython },
};
const typescript = (kind) => [process.execPath, here('client.mjs'), kind];
const python = (folder, kind) => [here(`${folder}/.venv/bin/python`), here('client.py'), kind];
const rust = (kind) => [`${process.env.RMCP_BIN}/matrix-client`, kind];
const client2 = `client ${npm('@modelcontextprotocol/client')} (TypeScript)`;
const clients = [
  { label: servers.ts1.label, command: typescript('sdk') },
  { label: client2, command: typescript('client') },
  { label: `${client2}, mode auto`, command: typescript('client-auto') },
  { label: servers.py1.label, command: python('python-1', 'mcp') },
  { label: servers.py2.label, command: python('..', 'mcp') },
  { label: servers.fm2.label, command: python('python-1', 'fastmcp') },
  { label: servers.fm4.label, command: python('..', 'fastmcp') },
  { label: servers.rmcp0.label, command: rust('rmcp0') },
  { label: servers.rmcp3.label, command: rust('rmcp3') },
  { label: `${servers.rmcp3.label}, mode auto`, command: rust('rmcp3-auto') },
];

let visits = 0;
async function visit(client, server, url) {
  visits += 1;
  const spec = JSON.stringify(server.spec).replaceAll('KEY', `${process.pid}-${visits}`);
  const [command, ...before] = client.command;
  try {
    const { stdout } = await promisify(execFile)(command, [...before, url, spec], { timeout: VISIT_LIMIT_MS });
    return JSON.parse(stdout.trim().split('\n').at(-1));
  } catch (error) {
    return { connect: short(error.stderr?.trim().split('\n').at(-1) || error.message) };
  }
}

const works = (told, feature) => told[feature] === 'ok';
const ports = Object.fromEntries(options.direct.split(' ').map((pair) => pair.split('=')));
const table = [
  '| client | server | versions | works through the router | and straight |',
  '|---|---|---|---|---|',
];
let worse = 0;
for (const client of clients) {
  for (const [service, server] of Object.entries(servers)) {
    if (!`${client.label} → ${server.label}`.includes(options.only)) continue;
    const straight = await visit(client, server, `http://127.0.0.1:${ports[service]}/mcp`);
    const through = await visit(client, server, `${options.url}/mcp/${service}`);
    const asked = features.filter((feature) => feature in server.spec);
    const lost = asked.filter((feature) => works(straight, feature) && !works(through, feature));
    worse += lost.length;
    const cell = (told) => {
      const good = asked.filter((feature) => works(told, feature));
      if (good.length === asked.length) return `all ${asked.length}`;
      return good.length === 0 ? 'nothing' : `all but ${asked.filter((feature) => !good.includes(feature)).join(', ')}`;
    };
    const why = lost.map((feature) => `**${feature}**: ${short(through[feature] ?? through.connect ?? 'no answer')}`);
    const version = (told) => told.version ?? '–';
    const row = `| ${client.label} | ${server.label} | ${version(through)}, straight ${version(straight)} | ${[cell(through), ...why].join('; ')} | ${cell(straight)} |`;
    console.log(row);
    table.push(row);
  }
}
if (options.write) writeTable(options.write, 'scripts/matrix.sh --write', table);
if (worse) console.error(`${worse} that work straight and not through the router`);
process.exitCode = worse ? 1 : 0;
