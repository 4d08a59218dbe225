//! The scenario `reconnect`: the event stream's TCP connection breaks while a call runs. The SDK reconnects by itself,
//! anonymously; the call must be answered, and the session must be the one it was.

import { randomUUID } from 'node:crypto';
import { incrementExactly } from './basics.mjs';
import { CutProxy } from './cut-proxy.mjs';
import { errorText, eventually, expect, sleep } from './report.mjs';
import { Session, sampledAnswer } from './session.mjs';

/** Between the start of the call and the cut: long enough for the call to be with the server. */
const LEAD_MS = 300;
/** A second call ends this long after the cut, before the SDK is back: its answer must be kept for the new stream. */
const OUTAGE_ANSWER_MS = 100;
/** The SDK's own pause is 3 s unless the server said `retry:`. */
const RECONNECT_LIMIT_MS = 15_000;

export async function reconnect(report, options) {
  const proxy = new CutProxy(options.url);
  let session;
  try {
    session = await Session.open(await proxy.listen(options.url), options);
    const before = session.sessionId;
    const responses = new Map();
    session.listen((message) => {
      if (message.id !== undefined && message.method === undefined) {
        responses.set(message.id, (responses.get(message.id) ?? 0) + 1);
      }
    });
    report.facts.sessionIds = [before];
    report.check('session id known', Boolean(before), String(session.endpoint?.pathname));
    report.facts.cuts = [];
    for (let round = 1; round <= options.cuts; round += 1) await cutOnce(report, options, proxy, session, round);

    await report.step('progress works afterwards', async () => {
      let seen = 0;
      await session.call('wait', { ms: 500, text: 'x' }, { onprogress: () => (seen += 1) });
      expect(seen > 0, 'none seen');
    });
    await report.step('side effects afterwards happen once', () =>
      incrementExactly(session, `reconnect-${randomUUID()}`, 5),
    );
    report.check('the session is the same', session.sessionId === before, `${before} then ${session.sessionId}`);
    report.check('session stayed open', session.alive);
    // Its answer came before the listener.
    report.check('the answer to initialize does not come again', !responses.has(0), [...responses.keys()]);
    report.check('nothing is asked twice', session.sampled === options.cuts, `${session.sampled} times`);
    // Allowed by the protocol, since clients drop them; worth knowing all the same.
    report.facts.duplicateAnswers = [...responses.values()].filter((times) => times > 1).length;
    report.facts.streamsSeen = proxy.streamsSeen;
  } finally {
    report.facts.notices = session?.notices ?? [];
    await session?.close();
    proxy.close();
  }
}

async function cutOnce(report, options, proxy, session, round) {
  const named = (name) => (options.cuts > 1 ? `cut ${round}: ${name}` : name);
  const text = `survived-${randomUUID()}`;
  const streamsBefore = proxy.streamsSeen;
  let settled = false;
  const startedAt = performance.now();
  const call = session
    .call('wait', { ms: options.ms, text })
    .then(
      (answer) => ({ answer }),
      (error) => ({ error }),
    )
    .finally(() => (settled = true));
  const lead = Math.min(LEAD_MS, options.ms / 2);
  const kept = session.call('wait', { ms: lead + OUTAGE_ANSWER_MS, text: `${text}/kept` }).then(
    (answer) => ({ answer }),
    (error) => ({ error }),
  );
  await sleep(lead);
  const pending = !settled;
  const cutAt = performance.now();
  const cut = proxy.cut(options.cutMode, options.cutScope);
  report.check(named('the stream was cut in mid-call'), pending && cut >= 1, `${cut} connections`);

  // Posted without a stream to answer on. With every connection cut, the client must first see that they are gone.
  await sleep(LEAD_MS / 10);
  const counted = incrementExactly(session, `reconnect-${randomUUID()}`, 1).then(() => '', errorText);
  const back = await eventually(RECONNECT_LIMIT_MS, () => proxy.streamsSeen > streamsBefore);
  const backMs = Math.round(performance.now() - cutAt);
  report.check(named('the SDK reconnected'), back, `${backMs} ms after the cut`);

  const { answer, error } = await call;
  const answeredMs = Math.round(performance.now() - startedAt);
  const early = await kept;
  report.check(
    named('the call in flight got its answer'),
    answer === text,
    error ? errorText(error) : `${answer} after ${answeredMs} ms`,
  );
  report.check(
    named('the call that ended while the stream was away got its answer'),
    early.answer === `${text}/kept`,
    early.error ? errorText(early.error) : early.answer,
  );
  const miscounted = await counted;
  report.check(named('a call posted while the stream is away runs once'), !miscounted, miscounted);
  report.facts.cuts.push({ reconnectedMs: backMs, answeredMs });

  await report.step(named('further calls work'), async () => {
    await session.ping();
    for (let i = 0; i < 3; i += 1) {
      const marker = `${text}/${i}`;
      const echoed = await session.call('echo', { text: marker });
      expect(echoed === marker, `sent ${marker}, got ${echoed}`);
    }
  });
  await report.step(named('sampling works'), async () => {
    const prompt = `still there? ${text}`;
    const sampled = await session.call('ask_client', { prompt });
    expect(sampled.includes(sampledAnswer(prompt)), `answer: ${sampled}`);
  });
}
