// Sessions, found by their first digits, their owner or their service.
import { useState } from 'preact/hooks';
import { remove, sessions, type Deployment, type Session } from './api';
import { Confirm } from './confirm';
import { why } from './incidents';
import { useAgain, useShared } from './shared';

const EVERY_MS = 3000;

/** Whose incarnation that is. */
export function nameOf(seen: Deployment, incarnation: string): string {
    return seen.instances.find((instance) => instance.incarnation === incarnation)?.id ?? `${incarnation.slice(0, 8)}…`;
}

export function Sessions({ seen, owner }: { seen: Deployment; owner: string }) {
    const { say, since, tell } = useShared();
    const [q, search] = useState('');
    const [of, setOf] = useState(owner);
    const [found, find] = useState<{ sessions: Session[]; more: boolean }>();
    const [wrong, setWrong] = useState('');
    const [asked, ask] = useState<Session>();
    const [again, setAgain] = useState(0);
    useAgain(
        async () => {
            try {
                find(await sessions(q, of));
                setWrong('');
            } catch (error) {
                setWrong(why(error, say));
            }
        },
        EVERY_MS,
        [q, of, again],
    );
    const owners = [...new Set([...seen.instances.map((instance) => instance.id), ...(of ? [of] : [])])];
    const count = found?.sessions.length ?? 0;
    return (
        <>
            <h1 tabIndex={-1}>{say('sessions')}</h1>
            <form class="search" role="search" onSubmit={(event) => event.preventDefault()}>
                <label>
                    <span>{say('search')}</span>
                    <input type="search" id="search" value={q} aria-describedby="hint" onInput={(event) => search(event.currentTarget.value)} />
                </label>
                <label>
                    <span>{say('owner')}</span>
                    <select id="owner" value={of} onChange={(event) => setOf(event.currentTarget.value)}>
                        <option value="">{say('anyOwner')}</option>
                        {owners.map((id) => <option key={id} value={id}>{id}</option>)}
                    </select>
                </label>
                <p id="hint" class="quiet">{say('searchHint')}</p>
            </form>
            {wrong && <p class="notice bad" role="alert">{wrong}</p>}
            {found && <p class="quiet" role="status">{count ? say(found.more ? 'foundMore' : 'found', { n: count }) : say('noSessions')}</p>}
            {found && count > 0 && (
                <div class="panel scrolls" tabIndex={0} role="region" aria-label={say('sessions')}>
                    <table>
                        <thead>
                            <tr>
                                {(['session', 'service', 'transport', 'owner', 'shownBy', 'created', 'active', 'actions'] as const).map((name) => (
                                    <th scope="col" key={name}>{say(name)}</th>
                                ))}
                            </tr>
                        </thead>
                        <tbody>
                            {found.sessions.map((session) => (
                                <tr key={session.handle} data-session={session.handle}>
                                    <th scope="row"><a href={`#/sessions/${session.handle}`}><code>{session.handle}</code></a></th>
                                    <td>{session.service}</td>
                                    <td>{session.transport}</td>
                                    <td>{session.owner || say('nobody')}</td>
                                    <td>{[...new Set(Object.values(session.streams).map((one) => nameOf(seen, one)))].join(', ') || say('nobody')}</td>
                                    <td>{say('ago', { time: since(session.createdMs) })}</td>
                                    <td>{say('ago', { time: since(session.lastActiveMs) })}</td>
                                    <td>
                                        <button type="button" aria-label={say('removeOf', { session: session.handle })} onClick={() => ask(session)}>
                                            {say('remove')}
                                        </button>
                                    </td>
                                </tr>
                            ))}
                        </tbody>
                    </table>
                </div>
            )}
            {asked && (
                <Confirm
                    text={say('removeAsk', { session: asked.handle })}
                    action={say('remove')}
                    onAnswer={async (isYes) => {
                        const { handle } = asked;
                        ask(undefined);
                        if (!isYes) return;
                        try {
                            await remove(handle);
                            tell(say('removed', { session: handle }));
                        } catch (error) {
                            tell(why(error, say));
                        }
                        setAgain((last) => last + 1);
                    }}
                />
            )}
        </>
    );
}
