// What the figures of instances say, taken together.
import type { Figures, Instance } from './api';

/** Silent for so many of its own pauses: it lives, and tells nothing. */
const SILENT = 5;

export type State = 'ready' | 'starting' | 'draining' | 'stopped' | 'gone' | 'silent';

export function stateOf(instance: Instance): State {
    if (!instance.isAlive) return 'gone';
    const { figures } = instance;
    if (!figures) return 'starting';
    if (instance.isAskedToDrain && figures.phase === 'ready') return 'draining';
    if (Date.now() - figures.atMs > Math.max(SILENT * figures.everyMs, 5000)) return 'silent';
    return figures.phase;
}

/** Of all instances together: the last minute, the newest last. */
export function together(all: (Figures | undefined)[]): { calls: number[]; failed: number[]; p99: number[]; everyMs: number } {
    const rates = all.flatMap((figures) => (figures ? [figures.rates] : []));
    const count = Math.max(0, ...rates.map((rates) => rates.length));
    const at = (place: number, column: 0 | 1 | 3) =>
        rates.map((rates) => rates[rates.length - count + place]?.[column] ?? 0);
    const places = Array.from({ length: count }, (_, place) => place);
    const sum = (numbers: number[]) => numbers.reduce((one, other) => one + other, 0);
    return {
        calls: places.map((place) => sum(at(place, 0))),
        failed: places.map((place) => sum(at(place, 1))),
        p99: places.map((place) => Math.max(...at(place, 3))),
        everyMs: all.find((figures) => figures)?.everyMs ?? 1000,
    };
}

export const perSecond = (number: number) => (number < 10 ? number.toFixed(1) : Math.round(number).toString());
