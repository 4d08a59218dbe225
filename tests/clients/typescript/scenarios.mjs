//! The scenarios by name. Each opens its own sessions, adds its checks to the report and closes what it opened.

import { randomUUID } from 'node:crypto';
import { basics } from './basics.mjs';
import { bridge, survive } from './bridge.mjs';
import { hold } from './hold.mjs';
import { reconnect } from './reconnect.mjs';
import { expect, errorText, latencies, sleep } from './report.mjs';
import { Session, sampledAnswer } from './session.mjs';

export const scenarios = { basics, sampling, progress, cancel, big, many, parallel, reconnect, hold, bridge, survive };

/** Opens a session for `body` and closes it whatever happens. */
async function withSession(report, options, body) {
  const session = await Session.open(options.url, options);
  report.facts.sessionIds = [session.sessionId];
  try {
    await body(session);
    report.check('session stayed open', session.alive);
  } finally {
    report.facts.notices = session.notices;
    await session.close();
  }
}

function sampling(report, options) {
  return withSession(report, options, async (session) => {
    const ask = async (prompt) => {
      const text = await session.call('ask_client', { prompt });
      expect(text.includes(sampledAnswer(prompt)), `answer: ${text}`);
    };
    await report.step('one round trip', () => ask('who are you? 你是谁?'));
    await report.step('five at once, each gets its own answer', async () => {
      await Promise.all(Array.from({ length: 5 }, (_, i) => ask(`question ${i} ${randomUUID()}`)));
    });
    report.check('every question reached the client once', session.sampled === 6, `${session.sampled} of 6`);
  });
}

function progress(report, options) {
  return withSession(report, options, async (session) => {
    const watch = async (ms) => {
      const seen = [];
      const text = `finished-${randomUUID()}`;
      const answer = await session.call(
        'wait',
        { ms, text },
        { onprogress: ({ progress: value }) => seen.push(value) },
      );
      expect(answer === text, `answer: ${answer}`);
      expect(seen.length >= 1, 'no progress before the result');
      expect(
        seen.every((value, i) => i === 0 || value > seen[i - 1]),
        `not increasing: ${seen}`,
      );
      return `${seen.length} notifications`;
    };
    await report.step('progress, then the result', () => watch(options.ms));
    await report.step('two calls at once, each with its own progress', async () => {
      return (await Promise.all([watch(options.ms), watch(Math.ceil(options.ms * 0.7))])).join(', ');
    });
    await report.step('no progress unless asked for', async () => {
      let stray = 0;
      const stop = session.listen(({ method }) => (stray += method === 'notifications/progress' ? 1 : 0));
      await session.call('wait', { ms: options.ms, text: 'quiet' });
      stop();
      expect(stray === 0, `${stray} notifications`);
    });
  });
}

/** Long enough for progress to be due while the scenario watches. */
const CANCEL_WATCH_MS = 4_000;

function cancel(report, options) {
  return withSession(report, options, async (session) => {
    const watched = new Map();
    session.listen((message) => {
      // The SDK's progress token is the request's id.
      const progressed = message.method === 'notifications/progress' && watched.get(message.params.progressToken);
      if (progressed) progressed.progressAt.push(performance.now());
      const answered = message.method === undefined && watched.get(message.id);
      if (answered && message.result) answered.results += 1;
    });
    const start = (ms, text, signal) => {
      const call = { progressAt: [], results: 0 };
      watched.set(session.nextRequestId, call);
      call.done = session.call('wait', { ms, text }, { signal, onprogress: () => {} }).then(
        (answer) => ({ answer }),
        (error) => ({ error }),
      );
      return call;
    };
    const abort = new AbortController();
    const long = start(30_000, 'never', abort.signal);
    // Two alike, one cancelled: progress of the one and not of the other shows that the tool itself was stopped.
    const stopped = start(CANCEL_WATCH_MS, 'never', abort.signal);
    const control = start(CANCEL_WATCH_MS, 'not cancelled');
    await sleep(200);
    const cancelledAt = performance.now();
    abort.abort('the test cancels');
    const outcomes = await Promise.all([long.done, stopped.done]);
    const endedMs = performance.now() - cancelledAt;
    report.check(
      'the cancelled calls end at once',
      outcomes.every(({ error }) => error) && endedMs < 1_000,
      outcomes.map(({ answer, error }) => answer ?? errorText(error)).join('; '),
    );
    await report.step('ping and echo are answered promptly', async () => {
      const from = performance.now();
      await session.ping();
      expect((await session.call('echo', { text: 'after' })) === 'after', 'wrong echo');
      const elapsed = performance.now() - from;
      expect(elapsed < 3_000, `after ${Math.round(elapsed)} ms`);
      return `${Math.round(elapsed)} ms`;
    });
    // What was sent before the cancellation arrived is no fault; by now it has arrived.
    const settledAt = performance.now();
    const { answer, error } = await control.done;
    report.check('a call beside them is not cancelled', answer === 'not cancelled', answer ?? errorText(error));
    const late = (call) => call.progressAt.filter((at) => at > settledAt).length;
    report.check(
      'a cancelled call tells no more progress',
      late(control) > 0 && late(stopped) + late(long) === 0,
      `${late(stopped) + late(long)} notifications, ${late(control)} of the call that goes on`,
    );
    report.check(
      'a cancelled call gives no result',
      long.results + stopped.results === 0,
      `${long.results + stopped.results}`,
    );
  });
}

function big(report, options) {
  return withSession(report, options, async (session) => {
    await report.step('big result', async () => {
      const from = performance.now();
      const length = Buffer.byteLength(await session.call('payload', { bytes: options.bytes }));
      expect(length === options.bytes, `${length} bytes instead of ${options.bytes}`);
      return `${length} bytes in ${Math.round(performance.now() - from)} ms`;
    });
    await report.step('big request and the same back', async () => {
      const from = performance.now();
      const text = variedText(options.uploadBytes);
      const answer = await session.call('echo', { text });
      expect(
        answer === text,
        `${Buffer.byteLength(answer)} bytes came back, or others than the ${options.uploadBytes} sent`,
      );
      return `${options.uploadBytes} bytes in ${Math.round(performance.now() - from)} ms`;
    });
    await report.step('small calls still work', async () => {
      expect((await session.call('echo', { text: 'small' })) === 'small', 'wrong echo');
    });
  });
}

/** Text of exactly `bytes` bytes in UTF-8 that differs everywhere and has characters of one to four bytes. */
function variedText(bytes) {
  let text = '';
  for (let i = 0; text.length < bytes; i += 1) text += `${i} é漢😀 `;
  const cut = Buffer.from(text)
    .subarray(0, bytes)
    .toString('utf8')
    .replace(/\uFFFD+$/, '');
  return cut + '.'.repeat(bytes - Buffer.byteLength(cut));
}

async function many(report, options) {
  const { sessions: sessionCount, calls } = options;
  const run = randomUUID();
  const opened = await Promise.allSettled(
    Array.from({ length: sessionCount }, () => Session.open(options.url, options)),
  );
  const sessions = opened.filter(({ status }) => status === 'fulfilled').map(({ value }) => value);
  const refused = opened.filter(({ status }) => status === 'rejected').map(({ reason }) => errorText(reason));
  report.facts.sessionIds = sessions.map(({ sessionId }) => sessionId);
  report.check('all sessions opened', refused.length === 0, `${sessions.length} of ${sessionCount} ${tally(refused)}`);
  report.check('each has a session id of its own', new Set(report.facts.sessionIds).size === sessions.length);

  const samples = [];
  const failures = [];
  const foreign = [];
  await Promise.all(
    sessions.map(async (session, s) => {
      for (let c = 0; c < calls; c += 1) {
        const marker = `${run}/${s}/${c}`;
        const from = performance.now();
        try {
          const text = await session.call('echo', { text: marker });
          samples.push(performance.now() - from);
          if (text !== marker) foreign.push(`${marker} got ${text}`);
        } catch (error) {
          failures.push(errorText(error));
        }
      }
    }),
  );
  const wanted = sessionCount * calls;
  report.facts.latencyMs = latencies(samples);
  report.check('every call answered', samples.length === wanted, `${samples.length} of ${wanted} ${tally(failures)}`);
  report.check('every answer carries its own marker', foreign.length === 0, foreign.slice(0, 3).join('; '));
  report.check(
    'all sessions stayed open',
    sessions.every(({ alive }) => alive),
  );
  await Promise.all(sessions.map((session) => session.close()));
}

const PARALLEL_WAIT_MS = 200;

function parallel(report, options) {
  return withSession(report, options, async (session) => {
    const run = randomUUID();
    const from = performance.now();
    const failures = [];
    const foreign = [];
    await Promise.all(
      Array.from({ length: options.calls }, async (_, i) => {
        const marker = `${run}/${i}`;
        try {
          const text = await (i % 2
            ? session.call('wait', { ms: PARALLEL_WAIT_MS, text: marker })
            : session.call('echo', { text: marker }));
          if (text !== marker) foreign.push(`${marker} got ${text}`);
        } catch (error) {
          failures.push(errorText(error));
        }
      }),
    );
    const elapsed = performance.now() - from;
    const waits = Math.floor(options.calls / 2);
    report.check(
      'every call answered',
      failures.length === 0,
      `${options.calls - failures.length} of ${options.calls} ${tally(failures)}`,
    );
    report.check('every answer carries its own marker', foreign.length === 0, foreign.slice(0, 3).join('; '));
    // One after the other the waits alone would need their sum.
    report.check(
      'the calls ran side by side',
      waits < 4 || elapsed < waits * PARALLEL_WAIT_MS,
      `${Math.round(elapsed)} ms for ${waits} waits of ${PARALLEL_WAIT_MS} ms`,
    );
  });
}

/** The most frequent texts with their counts, short enough for a detail. */
function tally(texts) {
  const counted = new Map();
  for (const text of texts) counted.set(text, (counted.get(text) ?? 0) + 1);
  return [...counted]
    .sort((a, b) => b[1] - a[1])
    .slice(0, 3)
    .map(([text, times]) => `${times}x ${text}`)
    .join('; ');
}
