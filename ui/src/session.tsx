// One session: whose it is, and what became of its messages.
import { useRef, useState } from 'preact/hooks';
import { Refused, remove, timeline, type Deployment, type Timeline } from './api';
import { Confirm } from './confirm';
import { merged, tellIncident, why } from './incidents';
import { nameOf } from './sessions';
import { clock, since, useAgain, useShared, type Shared } from './shared';

const EVERY_MS = 1500;

interface Step {
    key: string;
    what: string;
    where: string;
    atMs?: number;
    look: string;
}

/** Where a time is known it stands there; else it is when this page has seen it first. */
function stepsOf(told: Timeline, { say }: Shared): Step[] {
    const { session } = told;
    const steps: Step[] = [
        { key: 'created', what: say('t_created'), where: say('inHead'), atMs: session.createdMs, look: 'good' },
    ];
    for (const incident of merged([...told.incidents].reverse())) {
        const look = incident.what === 'adopted' ? 'moved' : 'warn';
        steps.push({ key: incident.id, what: tellIncident(incident, say), where: say('inIncidents'), atMs: incident.atMs, look });
    }
    told.audit.lines.forEach((line) => {
        const values = { who: line.who ?? '–', method: line.method ?? '', target: line.target ?? '', outcome: line.outcome ?? '', request: line.request ?? '' };
        const word = line.what === 'asked' ? 't_asked' : line.what === 'answered' ? 't_auditAnswered' : 't_refused';
        const where = say('inAudit', { instance: line.instance ?? told.audit.instance });
        steps.push({ key: line.hash ?? '', what: say(word, values), where, atMs: Date.parse(line.at ?? ''), look: line.what === 'refused' ? 'bad' : 'good' });
    });
    for (const { seq, request, method, isForwarded, isCancelled } of told.pending) {
        const values = { request, method };
        steps.push({ key: `accepted ${seq}`, what: say('t_accepted', values), where: say('inJournal'), look: 'warn' });
        if (isForwarded) steps.push({ key: `forwarded ${seq}`, what: say('t_forwarded', values), where: say('inJournal'), look: 'warn' });
        if (isCancelled) steps.push({ key: `cancelled ${seq}`, what: say('t_cancelled', values), where: say('inHead'), look: 'bad' });
    }
    const events = told.streams.flatMap((stream) => stream.events).sort((one, other) => one.event - other.event);
    for (const event of events) {
        const what = event.answers !== undefined
            ? say(event.isError ? 't_failed' : 't_answered', { request: event.answers })
            : event.question !== undefined ? say('t_question', { method: event.question }) : say('t_notification', { method: event.notification ?? '' });
        const delivered = say(event.isDelivered ? 't_delivered' : 't_waits');
        steps.push({
            key: `event ${event.event}`, what: `${what} · ${delivered}`, where: `${say('inLog')}, ${say('event', { n: event.event })}`,
            look: event.isError ? 'bad' : event.isDelivered ? 'good' : 'warn',
        });
    }
    return steps;
}

export function SessionView({ handle, seen }: { handle: string; seen: Deployment }) {
    const shared = useShared();
    const { say, tell, language } = shared;
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
