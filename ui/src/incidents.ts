// Incidents and refusals, in words.
import { Refused, type Incident } from './api';
import type { Say, Shared } from './shared';
import type { Words } from './words';

/** One death may be told by several, and an adoption has a second part: who is served again, and after how long. */
export function merged(incidents: Incident[]): Incident[] {
    const seen = new Set<string>();
    const served = new Map<string, number>();
    const whose = (one: Incident) => `${one.session} ${one.generation}`;
    for (const one of incidents) if (one.what === 'served' && one.tookUs) served.set(whose(one), one.tookUs);
    // The last of those that tell the same is the first: the newest come first.
    return incidents
        .filter((one) => one.what !== 'served')
        .reverse()
        .filter((one) => {
            const key = one.what === 'gone' ? `gone ${one.process}` : one.id;
            return !seen.has(key) && seen.add(key);
        })
        .map((one) => (one.what === 'adopted' ? { ...one, tookUs: served.get(whose(one)) } : one))
        .reverse();
}

/** One of them in words. */
export function tellIncident(incident: Incident, { say, long }: Shared): string {
    const values = {
        session: incident.session?.slice(0, 8) ?? '', about: incident.about || say('nobody'), instance: incident.instance,
        service: incident.service ?? '', endpoint: incident.endpoint ?? '', n: incident.count ?? 0,
    };
    switch (incident.what) {
        case 'adopted': {
            // Nobody: its owner had let it go.
            const isOwn = !incident.about || incident.about === incident.instance;
            const cause = `cause_${incident.cause}` as keyof Words;
            const parts = [say(isOwn ? 'adoptedOwn' : 'adopted', values), say(cause)];
            if (incident.pending) parts.push(say('open', { n: incident.pending }));
            if (incident.tookUs) parts.push(say('served', { took: long(incident.tookUs) }));
            return parts.join(' · ');
        }
        case 'draining': return say('drainingOf', values);
        case 'gone': return say('goneOf', values);
        case 'joined': case 'drained': case 'drain_asked': case 'server_down': case 'server_up': case 'session_deleted': case 'lost':
            return say(incident.what, values);
        default: return incident.what;
    }
}

/** Why something did not work. */
export function why(error: unknown, say: Say): string {
    const reason = error instanceof Refused ? error.reason : '';
    if (reason === 'last_instance' || reason === 'unknown_instance' || reason === 'unknown_session') return say(reason);
    return say('failed', { why: error instanceof Error ? error.message : `${error}` });
}
