//! Command line of the TypeScript test driver: runs one scenario against one server and prints one JSON object.
//! Exit code 0: every check passed; 1: not so; 2: bad command line.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Report, errorText } from './report.mjs';
import { scenarios } from './scenarios.mjs';
import { transports } from './session.mjs';

const sdk = JSON.parse(readFileSync(new URL('node_modules/@modelcontextprotocol/sdk/package.json', import.meta.url)));

const USAGE = `usage: node driver.mjs --url URL --scenario NAME [options]

  --url URL          event stream or Streamable HTTP endpoint, or with --service the base that /sse/{service} or
                     /mcp/{service} is appended to
  --scenario NAME    ${Object.keys(scenarios).join(', ')}
  --service NAME     service behind the router
  --transport NAME   ${Object.keys(transports).join(' or ')} (default sse)
  --header 'N: V'    header sent with every request; may be repeated
  --http2            over HTTP/2, for https
  --timeout S        limit of the whole run (default 60; hold: --seconds plus 60)
  --call-timeout S   limit of each request (default 30)
  --sessions N       many: sessions at once (default 32); hold: sessions (default 1)
  --calls N          many: calls of each session (default 10); parallel: calls at once (default 50)
  --bytes N          big: size of the result (default 4194304)
  --upload-bytes N   big: size of the text sent upstream (default 1048576)
  --ms N             progress, reconnect: length of the waiting call (default 1500)
  --cuts N           reconnect: how many times the stream is cut (default 1)
  --cut MODE         reconnect: fin (default) or rst
  --cut-scope SCOPE  reconnect: stream (default) or all connections
  --seconds N        hold: how long (default 10); SIGTERM and SIGINT end it early
  --interval-ms N    hold: pause between the starts of two calls (default 100)
`;

function badUsage(reason) {
  process.stderr.write(`${reason}\n\n${USAGE}`);
  process.exit(2);
}

function parse() {
  const text = { type: 'string' };
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        url: text,
        scenario: text,
        service: text,
        transport: { type: 'string', default: 'sse' },
        header: { type: 'string', multiple: true, default: [] },
        http2: { type: 'boolean', default: false },
        timeout: text,
        'call-timeout': text,
        sessions: text,
        calls: text,
        bytes: text,
        'upload-bytes': text,
        ms: text,
        cuts: text,
        cut: { type: 'string', default: 'fin' },
        'cut-scope': { type: 'string', default: 'stream' },
        seconds: text,
        'interval-ms': text,
        help: { type: 'boolean', short: 'h' },
      },
    }));
  } catch (error) {
    badUsage(error.message);
  }
  if (values.help) {
    process.stderr.write(USAGE);
    process.exit(0);
  }
  const number = (name, fallback) => {
    if (values[name] === undefined) return fallback;
    const parsed = Number(values[name]);
    if (!Number.isFinite(parsed) || parsed <= 0) badUsage(`--${name} must be a number above 0: ${values[name]}`);
    return parsed;
  };
  const count = (name, fallback) => {
    const parsed = number(name, fallback);
    if (!Number.isInteger(parsed)) badUsage(`--${name} must be a whole number: ${values[name]}`);
    return parsed;
  };
  const oneOf = (name, allowed) => {
    if (!allowed.includes(values[name])) badUsage(`--${name} must be one of ${allowed.join(', ')}: ${values[name]}`);
    return values[name];
  };
  if (!values.url) badUsage('--url is missing');
  oneOf('scenario', Object.keys(scenarios));
  const transport = oneOf('transport', Object.keys(transports));
  let url;
  try {
    const base = transport === 'sse' ? 'sse' : 'mcp';
    const path = values.service ? `/${base}/${encodeURIComponent(values.service)}` : '';
    url = new URL(path ? values.url.replace(/\/+$/, '') + path : values.url);
  } catch {
    badUsage(`--url is not a URL: ${values.url}`);
  }
  const headers = {};
  for (const header of values.header) {
    const colon = header.indexOf(':');
    if (colon < 1) badUsage(`--header must look like 'Name: value': ${header}`);
    headers[header.slice(0, colon).trim()] = header.slice(colon + 1).trim();
  }
  const seconds = number('seconds', 10);
  const isHold = values.scenario === 'hold';
  return {
    url,
    transport,
    headers,
    http2: values.http2,
    seconds,
    scenario: values.scenario,
    timeoutMs: number('timeout', isHold ? seconds + 60 : 60) * 1000,
    callMs: number('call-timeout', 30) * 1000,
    sessions: count('sessions', isHold ? 1 : 32),
    calls: count('calls', values.scenario === 'parallel' ? 50 : 10),
    bytes: count('bytes', 4 * 1024 * 1024),
    uploadBytes: count('upload-bytes', 1024 * 1024),
    ms: count('ms', 1500),
    cuts: count('cuts', 1),
    cutMode: oneOf('cut', ['fin', 'rst']),
    cutScope: oneOf('cut-scope', ['stream', 'all']),
    intervalMs: number('interval-ms', 100),
  };
}

const options = parse();
// stdout carries the report and nothing else, whatever a library prints.
console.log = console.info = console.debug = console.error;

const report = new Report(options.scenario, `${sdk.name} ${sdk.version}`);
let printed = false;

function finish() {
  if (printed) return;
  printed = true;
  const code = report.ok ? 0 : 1;
  // A pipe takes the text in the background: exit only when it has it all.
  process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(code));
}

process.on('uncaughtException', (error) => {
  report.check('no uncaught error', false, errorText(error));
  finish();
});
process.on('unhandledRejection', (error) => {
  report.check('no unhandled rejection', false, errorText(error));
  finish();
});
setTimeout(() => {
  report.check('overall time limit', false, `not finished within ${options.timeoutMs} ms`);
  finish();
}, options.timeoutMs);

try {
  await scenarios[options.scenario](report, options);
} catch (error) {
  report.check('scenario ran to its end', false, errorText(error));
}
finish();
