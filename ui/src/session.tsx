// One session: whose it is, and what became of its messages.
import { useRef, useState } from 'preact/hooks';
import { Refused, remove, timeline, type Deployment, type Timeline } from './api';
import { Confirm } from './confirm';
import { merged, tellIncident, why } from './incidents';
import { nameOf } from './sessions';
import { clock, useAgain, useShared, type Shared } from './shared';

const EVERY_MS = 2000;

interface Step {
    key: string;
    what: string;
    where: string;
    atMs?: number;
    look: string;
}

/**
 * The newest first. Journal and event log keep no times: what the audit log says of a request gives it one; what has none stands
 * behind what was before it.
 */
function stepsOf(told: Timeline, shared: Shared): Step[] {
    const { say } = shared;
    const { session, audit } = told;
    const timed: Step[] = [{ key: 'created', what: say('t_created'), where: say('inHead'), atMs: session.createdMs, look: 'good' }];
    for (const incident of merged([...told.incidents].reverse())) {
        const look = incident.what === 'adopted' ? 'moved' : 'warn';
        timed.push({ key: incident.id, what: tellIncident(incident, shared), where: say('inIncidents'), atMs: incident.atMs, look });
    }
    // An id may be used again after its answer: the last time counts.
    const asked = new Map<string, Record<string, string>>();
    const ended = new Map<string, Record<string, string>>();
    audit.lines.forEach((line, place) => {
        const { request = '', who = '–', target = '', outcome = '' } = line;
        const method = `${line.method ?? ''} ${target}`.trim();
        const where = say('inAudit', { instance: line.instance ?? '' });
        const atMs = Date.parse(line.at ?? '');
        if (line.what === 'answered') ended.set(request, line);
        else if (line.what === 'asked') {
            asked.set(request, line);
            timed.push({ key: `asked ${request} ${place}`, what: say('t_acceptedOf', { request, who, method }), where, atMs, look: 'good' });
        } else timed.push({ key: `refused ${place}`, what: say('t_refused', { who, method, target, outcome }), where, atMs, look: 'bad' });
    });
    const at = (line?: Record<string, string>) => (line?.at ? Date.parse(line.at) : undefined);

    const events: Step[] = told.streams.flatMap((stream) => stream.events).sort((one, other) => one.event - other.event).map((event) => {
        const method = asked.get(event.answers ?? '')?.method;
        const what = event.answers !== undefined
            ? say(event.isError ? 't_failed' : 't_answered', { request: event.answers }) + (method ? ` (${method})` : '')
            : event.question !== undefined ? say('t_question', { method: event.question }) : say('t_notification', { method: event.notification ?? '' });
        return {
            key: `event ${event.event}`,
            what: `${what} · ${say(event.isDelivered ? 't_delivered' : 't_waits')}`,
            where: `${say('inLog')}, ${say('event', { n: event.event })}`,
            atMs: event.answers === undefined ? undefined : at(ended.get(event.answers)),
            look: event.isError ? 'bad' : event.isDelivered ? 'good' : 'warn',
        };
    });
    const waiting = told.pending.flatMap(({ seq, request, method, isForwarded, isCancelled }): Step[] => {
        const step = (name: string, what: string, where: string, look: string, atMs?: number): Step => ({ key: `${name} ${seq}`, what, where, look, atMs });
        const values = { request, method };
        return [
            ...(asked.has(request) ? [] : [step('accepted', say('t_accepted', values), say('inJournal'), 'warn')]),
            ...(isForwarded ? [step('forwarded', say('t_forwarded', values), say('inJournal'), 'warn')] : []),
            ...(isCancelled ? [step('cancelled', say('t_cancelled', values), say('inHead'), 'bad')] : []),
        ];
    });
    // What waits is the newest; an event without a time stands where the one before it does.
    let before = session.createdMs;
    const placed = [
        ...timed.map((step) => ({ step, place: step.atMs ?? 0 })),
        ...events.map((step) => ({ step, place: (before = Math.max(before, step.atMs ?? before)) })),
        ...waiting.map((step) => ({ step, place: Number.MAX_SAFE_INTEGER })),
    ];
    return placed.sort((one, other) => one.place - other.place).map(({ step }) => step).reverse();
}

export function SessionView({ handle, seen }: { handle: string; seen: Deployment }) {
    const shared = useShared();
    const { say, since, tell, language } = shared;
    const [told, setTold] = useState<Timeline>();
    const [wrong, setWrong] = useState('');
    const [isGone, setGone] = useState(false);
    const [isAsked, ask] = useState(false);
    // When this page has seen a step first that has no time of its own: what was there already has none.
    const first = useRef(new Map<string, number>());
    const isBegun = useRef(false);
    useAgain(
        async () => {
            try {
                const now = await timeline(handle);
                for (const step of stepsOf(now, shared)) {
                    if (!first.current.has(step.key)) first.current.set(step.key, isBegun.current ? Date.now() : 0);
                }
                isBegun.current = true;
                setTold(now);
                setWrong('');
            } catch (error) {
                setGone(error instanceof Refused && error.status === 404);
                setWrong(why(error, say));
            }
        },
        EVERY_MS,
        [handle],
    );
    const session = told?.session;
    const facts: [string, string][] = session
        ? [
            [say('service'), session.service],
            [say('transport'), session.transport],
            [say('owner'), session.owner || say('nobody')],
            [say('generation'), `${session.generation}`],
            [say('shownBy'), told.streams.flatMap((one) => (one.holder ? [nameOf(seen, one.holder)] : [])).join(', ') || say('nobody')],
            [say('server'), session.endpoint || say('none')],
            [say('messages'), `${session.accepted ?? 0}`],
            [say('created'), say('ago', { time: since(session.createdMs) })],
            [say('active'), say('ago', { time: since(session.lastActiveMs) })],
        ]
        : [];
    return (
        <>
            <p><a href="#/sessions">← {say('back')}</a></p>
            <h1 tabIndex={-1}>{say('timelineOf', { session: handle })}</h1>
            {wrong && <p class="notice bad" role="alert">{wrong}</p>}
            {told && (
                <>
                    <section class="panel facts" aria-label={say('session')}>
                        <dl>
                            {facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}
                        </dl>
                        {!isGone && <button type="button" onClick={() => ask(true)}>{say('remove')}</button>}
                    </section>
                    <div class="panel">
                        <h2 id="timeline">{say('timeline')}</h2>
                        {!told.audit.isKept && <p class="quiet">{say('noAudit')}</p>}
                        <div class="scrolls" tabIndex={0} role="region" aria-labelledby="timeline">
                            <table class="timeline">
                                <thead>
                                    <tr><th scope="col">{say('when')}</th><th scope="col">{say('what')}</th><th scope="col">{say('where')}</th></tr>
                                </thead>
                                <tbody>
                                    {stepsOf(told, shared).map((step) => {
                                        const seenMs = first.current.get(step.key);
                                        const when = step.atMs ? clock(language, step.atMs) : seenMs ? say('seen', { time: clock(language, seenMs) }) : '–';
                                        return (
                                            <tr key={step.key} class={step.look} data-step={step.key}>
                                                <td>{when}</td><td><span class="dot" aria-hidden="true" />{step.what}</td><td>{step.where}</td>
                                            </tr>
                                        );
                                    })}
                                </tbody>
                            </table>
                        </div>
                    </div>
                </>
            )}
            {isAsked && (
                <Confirm
                    text={say('removeAsk', { session: handle })}
                    action={say('remove')}
                    onAnswer={async (isYes) => {
                        ask(false);
                        if (!isYes) return;
                        try {
                            await remove(handle);
                            tell(say('removed', { session: handle }));
                            location.hash = '#/sessions';
                        } catch (error) {
                            tell(why(error, say));
                        }
                    }}
                />
            )}
        </>
    );
}
