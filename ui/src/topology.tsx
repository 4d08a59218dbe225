// The picture: entrance → instances → store and servers, with how each is. The lines between them follow the boxes; what they say
// is said by the boxes, too.
import { useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { Deployment, Instance, Server } from './api';
import { Chart } from './chart';
import { perSecond, stateOf, together, type State } from './figures';
import { useShared } from './shared';

const GOOD: Record<State, string> = { ready: 'good', starting: 'warn', draining: 'warn', stopped: 'bad', gone: 'bad', silent: 'bad' };
const BREAKER = { closed: ['up', 'good'], half_open: ['probing', 'warn'], open: ['down', 'bad'] } as const;

interface Seen {
    service: string;
    url: string;
    sessions: number;
    inFlight: number;
    checkUs: number;
    state: Server['state'];
    error?: string;
    /** Instances that use it. */
    by: string[];
}

const worse = (one: Server['state'], other: Server['state']) =>
    one === 'open' || other === 'open' ? 'open' : one === 'half_open' || other === 'half_open' ? 'half_open' : 'closed';

/** What the instances see of the servers, taken together; of several views the worst counts. */
function serversOf(instances: Instance[]): Seen[] {
    const servers = new Map<string, Seen>();
    for (const { id, figures } of instances) {
        for (const service of figures?.services ?? []) {
            service.endpoints.forEach((server, place) => {
                const key = `${service.name} ${place} ${server.url}`;
                const known = servers.get(key);
                servers.set(key, {
                    service: service.name,
                    url: server.url,
                    sessions: (known?.sessions ?? 0) + server.sessions,
                    inFlight: (known?.inFlight ?? 0) + server.inFlight,
                    checkUs: Math.max(known?.checkUs ?? 0, server.checkUs),
                    state: known ? worse(known.state, server.state) : server.state,
                    error: server.error ?? known?.error,
                    by: [...(known?.by ?? []), ...(server.state === 'closed' ? [id] : [])],
                });
            });
        }
    }
    return [...servers.values()];
}

interface Wire {
    from: string;
    to: string;
    look: string;
}

export function Topology({ seen, onDrain }: { seen: Deployment; onDrain: (instance: Instance) => void }) {
    const { say, long } = useShared();
    const alive = seen.instances.filter((instance) => instance.isAlive);
    const servers = useMemo(() => serversOf(alive), [seen]);
    const roundTrip = Math.max(0, ...alive.map((instance) => instance.figures?.store.roundTripUs ?? 0));
    const isMemory = seen.store.kind === 'memory';
    const isStoreUp = seen.store.isUp && alive.every((instance) => instance.figures?.store.isUp ?? true);
    const error = seen.store.error ?? alive.map((instance) => instance.figures?.store.error).find((text) => text);
    const wires: Wire[] = [
        ...seen.instances.map((one) => ({ from: 'front', to: `i ${one.id}`, look: GOOD[stateOf(one)] ?? '' })),
        ...alive.map((one) => ({ from: `i ${one.id}`, to: 'store', look: one.figures?.store.isUp === false ? 'bad' : 'good' })),
        ...servers.flatMap((server) => server.by.map((id) => ({ from: `i ${id}`, to: `s ${server.service} ${server.url}`, look: 'good' }))),
    ];
    const picture = useRef<HTMLElement>(null);
    return (
        <section class="topology" ref={picture} aria-label={`${say('front')}, ${say('instances')}, ${say('store')}, ${say('servers')}`}>
            <Wires around={picture} wires={wires} />
            <div class="column">
                <h2>{say('front')}</h2>
                <div class="node good" data-node="front">
                    <h3>{say(seen.isProxied ? 'proxy' : 'direct')}</h3>
                    <p>{say(seen.isProxied ? 'frontHere' : 'frontElse')}</p>
                </div>
            </div>
            <div class="column wide">
                <h2>{say('instances')}</h2>
                <ul class="nodes">
                    {seen.instances.map((instance) => <InstanceBox key={instance.incarnation} instance={instance} onDrain={onDrain} />)}
                </ul>
                <div class={`node store ${isStoreUp ? 'good' : 'bad'}`} data-node="store">
                    <h3>{isMemory ? say('memory') : 'Redis'} <Sign good={isStoreUp ? 'good' : 'bad'} text={say(isStoreUp ? 'up' : 'down')} /></h3>
                    <p>{error ?? (roundTrip ? say('roundTrip', { time: long(roundTrip) }) : say('store'))}</p>
                </div>
            </div>
            <div class="column">
                <h2>{say('servers')}</h2>
                <ul class="nodes">
                    {servers.map((server) => <ServerBox key={`${server.service} ${server.url}`} server={server} />)}
                </ul>
            </div>
        </section>
    );
}

function Sign({ good, text }: { good: string; text: string }) {
    return <span class={`sign ${good}`}>{text}</span>;
}

function InstanceBox({ instance, onDrain }: { instance: Instance; onDrain: (instance: Instance) => void }) {
    const { say, since, long } = useShared();
    const state = stateOf(instance);
    const { figures } = instance;
    const all = useMemo(() => together([figures]), [figures]);
    const lines = useMemo(
        () => [{ values: all.calls, colour: 'calls' as const }, { values: all.failed, colour: 'failed' as const }],
        [all],
    );
    const now = all.calls[all.calls.length - 1] ?? 0;
    const p99 = all.p99[all.p99.length - 1] ?? 0;
    const text = say('callsNow', { now: perSecond(now), most: perSecond(Math.max(0, ...all.calls)) });
    return (
        <li class={`node ${GOOD[state]}`} data-node={`i ${instance.id}`} data-state={state}>
            <h3>{instance.id} <Sign good={GOOD[state]} text={say(state)} /></h3>
            <p>
                {instance.address} {instance.version && `· ${instance.version}`}
                {instance.startedMs && ` · ${say('upFor', { time: since(instance.startedMs) })}`}
            </p>
            <p>
                <a href={`#/sessions?owner=${encodeURIComponent(instance.id)}`}>{say('sessionsN', { n: figures?.sessions ?? instance.sessions })}</a>
                {figures && ` · ${say('streamsN', { n: figures.streams })} · ${say('callsN', { n: perSecond(now) })}${p99 ? ` · p99 ${long(p99)}` : ''}`}
            </p>
            {instance.isAlive && figures && <Chart lines={lines} everyMs={all.everyMs} text={text} unit={perSecond} />}
            {state === 'ready' && (
                <button type="button" aria-label={say('drainOf', { id: instance.id })} onClick={() => onDrain(instance)}>{say('drain')}</button>
            )}
        </li>
    );
}

function ServerBox({ server }: { server: Seen }) {
    const { say, long } = useShared();
    const [word, good] = BREAKER[server.state];
    return (
        <li class={`node ${good}`} data-node={`s ${server.service} ${server.url}`} data-state={server.state}>
            <h3>{server.service} <Sign good={good} text={say(word)} /></h3>
            <p>{server.url}</p>
            <p>
                {say('sessionsN', { n: server.sessions })} · {say('inFlightN', { n: server.inFlight })}
                {server.checkUs > 0 && ` · ${say('checkTook', { time: long(server.checkUs) })}`}
            </p>
            {server.state !== 'closed' && server.error && <p class="error">{server.error}</p>}
        </li>
    );
}

interface Drawn {
    path: string;
    look: string;
}

function Wires({ around, wires }: { around: { current: HTMLElement | null }; wires: Wire[] }) {
    const [drawn, draw] = useState<{ width: number; height: number; lines: Drawn[] }>({ width: 0, height: 0, lines: [] });
    const known = JSON.stringify(wires);
    useLayoutEffect(() => {
        const whole = around.current;
        if (!whole) return;
        const measure = () => {
            const box = whole.getBoundingClientRect();
            const places = new Map<string, DOMRect>();
            whole.querySelectorAll<HTMLElement>('[data-node]').forEach((node) => places.set(node.dataset.node ?? '', node.getBoundingClientRect()));
            const lines = wires.flatMap(({ from, to, look }) => {
                const [start, end] = [places.get(from), places.get(to)];
                if (!start || !end) return [];
                const at = (x: number, y: number) => [Math.round(x - box.left), Math.round(y - box.top)] as const;
                // What stands below is reached from the side that its owner leaves free; else from left to right.
                const isBelow = to === 'store';
                const [x1, y1] = isBelow ? at(start.left, start.top + start.height * 0.7) : at(start.right, start.top + start.height / 2);
                const [x2, y2] = isBelow ? at(end.left, end.top + end.height / 2) : at(end.left, end.top + end.height / 2);
                const bend = isBelow ? Math.min(x1, x2) - 22 : (x1 + x2) / 2;
                return [{ path: `M${x1} ${y1}C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}`, look }];
            });
            draw({ width: Math.round(box.width), height: Math.round(box.height), lines });
        };
        measure();
        const sized = new ResizeObserver(measure);
        sized.observe(whole);
        return () => sized.disconnect();
    }, [known]);
    return (
        <svg class="wires" aria-hidden="true" width={drawn.width} height={drawn.height} viewBox={`0 0 ${drawn.width} ${drawn.height}`}>
            {drawn.lines.map(({ path, look }) => <path key={path} d={path} class={look} />)}
        </svg>
    );
}
