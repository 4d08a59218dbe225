// The deployment as it is now, and what has happened to it.
import { useMemo, useState } from 'preact/hooks';
import { drain, type Deployment, type Incident, type Instance } from './api';
import { Chart } from './chart';
import { Confirm } from './confirm';
import { perSecond, together } from './figures';
import { merged, tellIncident, why } from './incidents';
import { clock, useShared } from './shared';
import { Topology } from './topology';

const most = (numbers: number[]) => Math.max(0, ...numbers);
const last = (numbers: number[]) => numbers[numbers.length - 1] ?? 0;
export function Overview({ seen }: { seen: Deployment }) {
    const { say, long, tell } = useShared();
    const [asked, ask] = useState<Instance>();
    const alive = seen.instances.filter((instance) => instance.isAlive);
    const all = useMemo(() => together(alive.map((instance) => instance.figures)), [seen]);
    const lines = useMemo(
        () => ({
            calls: [{ values: all.calls, colour: 'calls' as const }, { values: all.failed, colour: 'failed' as const }],
            latency: [{ values: all.p99, colour: 'latency' as const }],
        }),
        [all],
    );
    const incidents = useMemo(() => merged(seen.incidents), [seen]);
    const callsText = `${say('callsNow', { now: perSecond(last(all.calls)), most: perSecond(most(all.calls)) })}; ${say('failedNow', { now: perSecond(last(all.failed)) })}`;
    const latencyText = say('latencyNow', { now: long(last(all.p99)), most: long(most(all.p99)) });
    return (
        <>
            <h1 tabIndex={-1}>{say('overview')}</h1>
            <Topology seen={seen} onDrain={ask} />
            <div class="two">
                <section class="panel" aria-labelledby="calls">
                    <h2 id="calls">{say('calls')} <output>{perSecond(last(all.calls))}</output></h2>
                    <Chart lines={lines.calls} everyMs={all.everyMs} text={callsText} unit={perSecond} />
                </section>
                <section class="panel" aria-labelledby="latency">
                    <h2 id="latency">{say('latency')} <output>{last(all.p99) ? long(last(all.p99)) : '–'}</output></h2>
                    <Chart lines={lines.latency} everyMs={all.everyMs} text={latencyText} unit={long} />
                </section>
            </div>
            <Failovers incidents={incidents} />
            <section class="panel" aria-labelledby="happened">
                <h2 id="happened">{say('happened')}</h2>
                {incidents.length === 0 ? (
                    <p class="empty">{say('nothingHappened')}</p>
                ) : (
                    <ol class="happened" tabIndex={0} aria-labelledby="happened">
                        {incidents.map((incident) => <Happened key={incident.id} incident={incident} />)}
                    </ol>
                )}
            </section>
            {asked && (
                <Confirm
                    text={say('drainAsk', { id: asked.id, n: asked.figures?.sessions ?? asked.sessions })}
                    action={say('drain')}
                    onAnswer={async (isYes) => {
                        ask(undefined);
                        if (!isYes) return;
                        try {
                            await drain(asked.id);
                            tell(say('drainAsked', { id: asked.id }));
                        } catch (error) {
                            tell(why(error, say));
                        }
                    }}
                />
            )}
        </>
    );
}

/** How long after a death its sessions may be said to have moved because of it. */
const BECAUSE_MS = 10 * 60 * 1000;

function Failovers({ incidents }: { incidents: Incident[] }) {
    const { say, long, language } = useShared();
    // Who has said that it goes is not missed.
    const wasDrained = (gone: Incident) =>
        incidents.some((one) => one.what === 'drained' && one.instance === gone.about && Math.abs(one.atMs - gone.atMs) < 60_000);
    const deaths = incidents.filter((one) => one.what === 'gone' && !wasDrained(one)).slice(0, 5);
    if (deaths.length === 0) return null;
    return (
        <section class="panel" aria-labelledby="failovers">
            <h2 id="failovers">{say('failovers')}</h2>
            <ul class="failovers">
                {deaths.map((death) => {
                    const before = incidents.find((one) => one.what === 'joined' && one.instance === death.about && one.atMs <= death.atMs);
                    const moved = incidents.filter(
                        (one) => one.what === 'adopted' && one.about === death.about && one.instance !== death.about
                            && one.atMs > (before?.atMs ?? 0) && one.atMs < death.atMs + BECAUSE_MS,
                    );
                    const took = most(moved.map((one) => one.tookUs ?? 0));
                    const values = { id: death.about ?? '', time: clock(language, death.atMs), n: moved.length, took: long(took) };
                    return <li key={death.id}>{say(moved.length ? 'failover' : 'failoverNone', values)}</li>;
                })}
            </ul>
        </section>
    );
}

const SIGNS: Record<string, string> = {
    adopted: 'moved', gone: 'bad', server_down: 'bad', lost: 'bad', draining: 'warn', drain_asked: 'warn', drained: 'warn', session_deleted: 'warn',
};

function Happened({ incident }: { incident: Incident }) {
    const shared = useShared();
    const { language } = shared;
    const text = tellIncident(incident, shared);
    return (
        <li class={SIGNS[incident.what] ?? 'good'}>
            <time dateTime={new Date(incident.atMs).toISOString()}>{clock(language, incident.atMs)}</time>
            {incident.session ? <a href={`#/sessions/${incident.session}`}>{text}</a> : <span>{text}</span>}
        </li>
    );
}
