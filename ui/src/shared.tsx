// What all views share: words and times in the chosen language, the theme, and the last picture of the deployment.
import { createContext } from 'preact';
import { useContext, useEffect, useRef, useState } from 'preact/hooks';
import { deployment, Refused, token, type Deployment } from './api';
import { fill, type Language, type Words } from './words';

export type Theme = 'auto' | 'light' | 'dark';

export interface Shared {
    language: Language;
    theme: Theme;
    /** The theme as it is seen. */
    isDark: boolean;
    words: Words;
    say: Say;
    /** A time in microseconds. */
    long: (microseconds: number) => string;
    /** How long ago that was, in milliseconds since 1970. */
    since: (ms: number) => string;
    /** Tells it to whoever looks or listens, once. */
    tell: (text: string) => void;
}

export const SharedContext = createContext<Shared>(null as unknown as Shared);
export const useShared = () => useContext(SharedContext);

export function kept<T extends string>(name: string, allowed: readonly T[], otherwise: T): [T, (value: T) => void] {
    const read = (): T => {
        const value = localStorage.getItem(name) as T | null;
        return value && allowed.includes(value) ? value : otherwise;
    };
    const [value, set] = useState(read);
    return [value, (next) => (localStorage.setItem(name, next), set(next))];
}

export type Say = (name: keyof Words, values?: Record<string, string | number>) => string;

export const makeSay = (words: Words): Say => (name, values = {}) => fill(words[name], values);

/** A time of day. */
export const clock = (language: Language, ms: number) =>
    new Date(ms).toLocaleTimeString(language === 'zh' ? 'zh-CN' : 'en-GB', { hour12: false });

/** How long, with two digits that count. */
export function makeLong(words: Words): (microseconds: number) => string {
    const short = (number: number) => (number < 10 ? number.toFixed(1) : Math.round(number).toString());
    return (microseconds) => {
        if (microseconds < 1000) return `${Math.round(microseconds)} ${words.us}`;
        if (microseconds < 1e6) return `${short(microseconds / 1e3)} ${words.ms}`;
        if (microseconds < 60e6) return `${short(microseconds / 1e6)} ${words.s}`;
        if (microseconds < 3600e6) return `${Math.round(microseconds / 60e6)} ${words.min}`;
        if (microseconds < 48 * 3600e6) return `${Math.round(microseconds / 3600e6)} ${words.h}`;
        return `${Math.round(microseconds / 86400e6)} ${words.d}`;
    };
}

export interface Picture {
    /** The last one. */
    seen?: Deployment;
    /** When that was. */
    atMs: number;
    /** Nobody answers. */
    isAway: boolean;
    /** The routers do not take this for an operator's. */
    isRefused: boolean;
    /** Although it had a token. */
    isWrongToken: boolean;
}

const SLOWEST_MS = 5000;

/** Asks again and again, not while nobody looks; whichever instance answers knows of all. */
export function usePicture(attempt: number): Picture {
    const [picture, set] = useState<Picture>({ atMs: 0, isAway: false, isRefused: false, isWrongToken: false });
    useEffect(() => {
        let timer = 0;
        let isOver = false;
        let failures = 0;
        const look = async () => {
            let pause = 1000;
            try {
                const seen = await deployment();
                failures = 0;
                pause = Math.min(Math.max(seen.publishMs, 1000), SLOWEST_MS);
                if (!isOver) set({ seen, atMs: Date.now(), isAway: false, isRefused: false, isWrongToken: false });
            } catch (error) {
                failures += 1;
                const isRefused = error instanceof Refused && (error.status === 401 || error.status === 403);
                pause = Math.min(500 * 2 ** failures, SLOWEST_MS);
                if (!isOver) set((last) => ({ ...last, isAway: !isRefused, isRefused, isWrongToken: isRefused && token.get() !== '' }));
                if (isRefused) return;
            }
            if (!isOver) timer = window.setTimeout(document.hidden ? sleep : look, pause);
        };
        const sleep = () => document.addEventListener('visibilitychange', look, { once: true });
        look();
        return () => {
            isOver = true;
            window.clearTimeout(timer);
            document.removeEventListener('visibilitychange', look);
        };
    }, [attempt]);
    return picture;
}

/** Does this now and then, until the view is left or what it is about changes. */
export function useAgain(work: () => Promise<void>, everyMs: number, about: unknown[]) {
    const latest = useRef(work);
    latest.current = work;
    useEffect(() => {
        let timer = 0;
        let isOver = false;
        const again = async () => {
            if (!document.hidden) await latest.current();
            if (!isOver) timer = window.setTimeout(again, everyMs);
        };
        again();
        return () => {
            isOver = true;
            window.clearTimeout(timer);
        };
    }, about);
}
