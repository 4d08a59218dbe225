//! The checks of one run and the single JSON object that is printed for them.
//! Owns stdout: everything else writes to stderr.

const DETAIL_LIMIT = 400;

export class Report {
  constructor(scenario, sdk) {
    this.scenario = scenario;
    this.sdk = sdk;
    this.checks = [];
    /** Extra members of the printed object: session ids, timings, counters. */
    this.facts = {};
    this.startedAt = performance.now();
  }

  check(name, ok, detail = '') {
    const text = typeof detail === 'string' ? detail : JSON.stringify(detail);
    this.checks.push({ name, ok: Boolean(ok), detail: text.slice(0, DETAIL_LIMIT) });
    return Boolean(ok);
  }

  /** Runs `body`; what it returns is the detail, what it throws is the reason of the failure. */
  async step(name, body) {
    try {
      const detail = await body();
      return this.check(name, true, detail ?? '');
    } catch (error) {
      return this.check(name, false, errorText(error));
    }
  }

  get ok() {
    return this.checks.length > 0 && this.checks.every((check) => check.ok);
  }

  toJSON() {
    return {
      scenario: this.scenario,
      ok: this.ok,
      sdk: this.sdk,
      elapsedMs: Math.round(performance.now() - this.startedAt),
      ...this.facts,
      checks: this.checks,
    };
  }
}

/** A failed expectation inside a step. */
export class Unmet extends Error {}

export function expect(condition, reason) {
  if (!condition) throw new Unmet(typeof reason === 'function' ? reason() : reason);
}

export function errorText(error) {
  if (error instanceof Unmet) return error.message;
  if (!(error instanceof Error)) return String(error);
  // fetch hides the reason (refused, reset) in `cause`, at times several levels deep.
  const parts = [`${error.name}: ${error.message}`];
  for (let cause = error.cause; cause instanceof Error && parts.length < 4; cause = cause.cause) {
    parts.push(cause.code ? `${cause.code} ${cause.message}` : cause.message);
  }
  return parts.join(' <- ');
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The promise, or a failure that says what did not happen in time. */
export function within(ms, what, promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Unmet(`${what}: not within ${ms} ms`)), ms);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

/** Waits until `condition` holds; false when it did not within `ms`. */
export async function eventually(ms, condition) {
  const deadline = performance.now() + ms;
  while (!condition()) {
    if (performance.now() >= deadline) return false;
    await sleep(10);
  }
  return true;
}

/** p50, p95, p99 and maximum of a list of milliseconds. */
export function latencies(samples) {
  if (samples.length === 0) return null;
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (share) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]);
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1) };
}
