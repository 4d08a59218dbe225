// What the router tells (docs/operations.md, "The dashboard"), and how it is asked: below the page's own address, and with the
// operator's token where that is needed. The token is kept for as long as the tab, and goes nowhere else.

export interface Server {
    url: string;
    state: 'closed' | 'open' | 'half_open';
    sessions: number;
    inFlight: number;
    checkUs: number;
    error?: string;
}

export interface Figures {
    atMs: number;
    everyMs: number;
    phase: 'starting' | 'ready' | 'draining' | 'stopped';
    sessions: number;
    streams: number;
    connections: number;
    stateless: number;
    heldBytes: number;
    leaseAgeMs: number;
    store: { isUp: boolean; error: string | null; roundTripUs: number };
    /** Calls a second, those that failed, p50 and p99 in microseconds; the oldest first. */
    rates: [number, number, number, number][];
    services: { name: string; endpoints: Server[] }[];
}

export interface Instance {
    id: string;
    incarnation: string;
    isAlive: boolean;
    address?: string;
    version?: string;
    startedMs?: number;
    sessions: number;
    isAskedToDrain?: boolean;
    figures?: Figures;
}

export interface Incident {
    id: string;
    atMs: number;
    what: string;
    instance: string;
    session?: string;
    service?: string;
    about?: string;
    process?: string;
    cause?: string;
    endpoint?: number;
    generation?: number;
    pending?: number;
    tookUs?: number;
    count?: number;
}

export interface Deployment {
    isProxied: boolean;
    instance: string;
    version: string;
    publishMs: number;
    store: { kind: string; isUp: boolean; error: string | null };
    instances: Instance[];
    incidents: Incident[];
}

export interface Session {
    handle: string;
    service: string;
    transport: string;
    owner: string;
    generation: number;
    createdMs: number;
    lastActiveMs: number;
    initialized: boolean;
    endpoint: string;
    /** Incarnation of who shows it, by stream. */
    streams: Record<string, string>;
    accepted?: number;
    claimed?: number;
}

export interface StreamEvent {
    event: number;
    isDelivered: boolean;
    answers?: string;
    isError?: boolean;
    notification?: string;
    question?: string;
}

export interface Timeline {
    session: Session;
    incidents: Incident[];
    audit: { isKept: boolean; lines: Record<string, string>[] };
    pending: { seq: number; request: string; method: string; isForwarded: boolean; isCancelled: boolean }[];
    streams: { stream: string; holder: string | null; delivered: number; events: StreamEvent[] }[];
}

/** What was answered instead. */
export class Refused extends Error {
    constructor(readonly status: number, readonly reason: string, message: string) {
        super(message);
    }
}

const TOKEN = 'mcp-router-token';
/** An instance that says nothing for so long is given up; the next request meets another one. */
const PATIENCE_MS = 8000;

export const token = {
    get: () => sessionStorage.getItem(TOKEN) ?? '',
    set: (value: string) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

async function ask(path: string, method = 'GET'): Promise<Response> {
    const headers: Record<string, string> = {};
    if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
    // The page is at …/ui/, beside what it asks for.
    const answer = await fetch(new URL(`../mcp/router/${path}`, document.baseURI), {
        method,
        headers,
        cache: 'no-store',
        credentials: 'omit',
        signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (answer.ok) return answer;
    const body = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, body?.error?.data?.reason ?? '', body?.error?.message ?? `HTTP ${answer.status}`);
}

const json = async <T,>(path: string): Promise<T> => (await ask(path)).json();

export const deployment = () => json<Deployment>('deployment');
export const timeline = (handle: string) => json<Timeline>(`sessions/${encodeURIComponent(handle)}/timeline`);
export const remove = (handle: string) => ask(`sessions/${encodeURIComponent(handle)}`, 'DELETE');
export const drain = (id: string) => ask(`instances/${encodeURIComponent(id)}/drain`, 'POST');

export const SHOWN = 100;

export function sessions(q: string, owner: string) {
    const query = new URLSearchParams({ limit: `${SHOWN}` });
    if (q) query.set('q', q);
    if (owner) query.set('owner', owner);
    return json<{ sessions: Session[]; count: number; more: boolean }>(`sessions?${query}`);
}
