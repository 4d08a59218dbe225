//! The scenario `hold`: a steady load for tests that kill something. Prints READY on stderr when the sessions are open.

import { randomUUID } from 'node:crypto';
import { errorText, latencies, sleep } from './report.mjs';
import { Session } from './session.mjs';

/** Calls without an answer yet, per session; at this number a start is skipped and counted: memory stays flat. */
const PENDING_LIMIT = 500;
const ERROR_TEXT_LIMIT = 50;

export async function hold(report, options) {
  const sessions = await Promise.all(
    Array.from({ length: options.sessions }, () => Session.open(options.url, options)),
  );
  const ids = sessions.map(({ sessionId }) => sessionId);
  const totals = {
    calls: 0,
    ok: 0,
    errors: 0,
    skipped: 0,
    byText: {},
    firstErrorMs: null,
    lastErrorMs: null,
    longestSilenceMs: 0,
    latencyMs: null,
  };
  const samples = [];
  // Shared with the report from the start, so that the totals are printed even when the time limit strikes.
  Object.assign(report.facts, { sessionIds: ids, totals });
  process.stderr.write('READY\n');
  const readyAt = performance.now();

  let stopping = false;
  const stop = () => (stopping = true);
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);

  const run = randomUUID();
  const end = readyAt + options.seconds * 1000;
  let lastAnswerAt = readyAt;
  const pending = new Set();

  const countError = (text) => {
    totals.errors += 1;
    totals.lastErrorMs = Math.round(performance.now() - readyAt);
    totals.firstErrorMs ??= totals.lastErrorMs;
    if (totals.byText[text] || Object.keys(totals.byText).length < ERROR_TEXT_LIMIT) {
      totals.byText[text] = (totals.byText[text] ?? 0) + 1;
    }
  };
  const callOnce = async (session, marker) => {
    const from = performance.now();
    totals.calls += 1;
    try {
      const text = await session.call('echo', { text: marker });
      if (text !== marker) return countError('an answer with the marker of another call');
      totals.ok += 1;
      const now = performance.now();
      samples.push(now - from);
      totals.longestSilenceMs = Math.max(totals.longestSilenceMs, Math.round(now - lastAnswerAt));
      lastAnswerAt = now;
    } catch (error) {
      countError(errorText(error));
    }
  };

  // Starts do not wait for answers: an outage must not thin out the load that shows it.
  for (let tick = 0; !stopping && performance.now() < end; tick += 1) {
    for (const [s, session] of sessions.entries()) {
      if (pending.size >= PENDING_LIMIT * sessions.length) {
        totals.skipped += 1;
        continue;
      }
      const call = callOnce(session, `${run}/${s}/${tick}`).finally(() => pending.delete(call));
      pending.add(call);
    }
    await sleep(options.intervalMs);
  }
  await Promise.all(pending);
  totals.longestSilenceMs = Math.max(totals.longestSilenceMs, Math.round(performance.now() - lastAnswerAt));
  totals.latencyMs = latencies(samples);

  report.check('calls were made and answered', totals.ok > 0, `${totals.ok} of ${totals.calls}`);
  report.check('no errors', totals.errors === 0, totals.byText);
  report.check('no start skipped', totals.skipped === 0, `${totals.skipped}`);
  report.facts.sessionsKept = sessions.filter((session, s) => session.alive && session.sessionId === ids[s]).length;
  report.facts.notices = sessions.flatMap(({ notices }) => notices).slice(0, 20);
  await Promise.all(sessions.map((session) => session.close()));
}
