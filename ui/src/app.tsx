// The page: head, the view that the address names, and what is told.
import { render } from 'preact';
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { token } from './api';
import { Overview } from './overview';
import { SessionView } from './session';
import { Sessions } from './sessions';
import { clock, kept, makeLong, makeSay, SharedContext, usePicture, useShared, type Theme } from './shared';
import { LANGUAGES, type Language } from './words';

const own: Language = navigator.language.startsWith('zh') ? 'zh' : 'en';
const prefersDark = matchMedia('(prefers-color-scheme: dark)');

/** Where the page is: #/, #/sessions, #/sessions/…, each with a query perhaps. */
function useRoute(): string {
    const read = () => location.hash.replace(/^#\/?/, '');
    const [route, set] = useState(read);
    useEffect(() => {
        const changed = () => set(read());
        window.addEventListener('hashchange', changed);
        return () => window.removeEventListener('hashchange', changed);
    }, []);
    return route;
}

function App() {
    const [language, setLanguage] = kept<Language>('mcp-router-language', ['en', 'zh'], own);
    const [theme, setTheme] = kept<Theme>('mcp-router-theme', ['auto', 'light', 'dark'], 'auto');
    const [systemIsDark, setSystemIsDark] = useState(prefersDark.matches);
    const [told, tell] = useState('');
    const [attempt, setAttempt] = useState(0);
    const picture = usePicture(attempt);
    const route = useRoute();
    const words = LANGUAGES[language];
    const isDark = theme === 'dark' || (theme === 'auto' && systemIsDark);
    const shared = useMemo(
        () => {
            const long = makeLong(words);
            const since = (ms: number) => long(Math.max(0, Date.now() - ms) * 1000);
            return { language, theme, isDark, words, say: makeSay(words), long, since, tell };
        },
        [language, theme, isDark, words],
    );
    const { say } = shared;

    useEffect(() => {
        const changed = () => setSystemIsDark(prefersDark.matches);
        prefersDark.addEventListener('change', changed);
        return () => prefersDark.removeEventListener('change', changed);
    }, []);
    // Before anything is drawn that looks at it.
    useLayoutEffect(() => {
        document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
        document.documentElement.dataset.theme = isDark ? 'dark' : 'light';
    }, [language, isDark]);

    // Whoever goes to another view by keyboard, or listens, begins at its heading.
    const [path = '', query = ''] = route.split('?');
    const main = useRef<HTMLElement>(null);
    const isFirst = useRef(true);
    useEffect(() => {
        document.title = `${say(path.startsWith('sessions') ? 'sessions' : 'overview')} – mcp-router`;
        if (!isFirst.current) main.current?.querySelector('h1')?.focus();
        isFirst.current = false;
    }, [path]);

    const signOut = useCallback(() => {
        token.set('');
        setAttempt((last) => last + 1);
    }, []);

    const view = () => {
        if (picture.isRefused) return <SignIn isWrong={picture.isWrongToken} onTry={() => setAttempt((last) => last + 1)} />;
        if (!picture.seen) return <p class="empty">{picture.isAway ? '' : say('waiting')}</p>;
        const handle = path.match(/^sessions\/([0-9a-f]+)$/)?.[1];
        if (handle) return <SessionView key={handle} handle={handle} seen={picture.seen} />;
        if (path === 'sessions') return <Sessions seen={picture.seen} owner={new URLSearchParams(query).get('owner') ?? ''} />;
        return <Overview seen={picture.seen} />;
    };
    const isSessions = path.startsWith('sessions');
    return (
        <SharedContext.Provider value={shared}>
            <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), main.current?.focus())}>{say('skip')}</a>
            <header class="bar">
                <span class="brand">mcp-router <small>{picture.seen?.version}</small></span>
                <nav aria-label="mcp-router">
                    <a href="#/" aria-current={isSessions ? undefined : 'page'}>{say('overview')}</a>
                    <a href="#/sessions" aria-current={isSessions ? 'page' : undefined}>{say('sessions')}</a>
                </nav>
                <div class="tools">
                    <Choice label={say('language')} value={language} set={setLanguage} of={{ en: 'English', zh: '中文' }} id="language" />
                    <Choice label={say('theme')} value={theme} set={setTheme} of={{ auto: say('auto'), light: say('light'), dark: say('dark') }} id="theme" />
                    {token.get() && <button type="button" onClick={signOut}>{say('signOut')}</button>}
                </div>
            </header>
            <main id="main" ref={main} tabIndex={-1}>
                {picture.isAway && (
                    <p class="notice bad" role="alert">
                        {say('away', { time: picture.atMs ? clock(language, picture.atMs) : say('none') })}
                    </p>
                )}
                {view()}
            </main>
            <footer>
                {picture.seen && !picture.isRefused && say('seenAt', { time: clock(language, picture.atMs), instance: picture.seen.instance })}
            </footer>
            <p class="told" role="status">{told}</p>
        </SharedContext.Provider>
    );
}

function Choice<T extends string>(props: { id: string; label: string; value: T; set: (value: T) => void; of: Record<T, string> }) {
    const choices = Object.entries(props.of) as [T, string][];
    return (
        <label class="choice">
            <span>{props.label}</span>
            <select id={props.id} value={props.value} onChange={(event) => props.set(event.currentTarget.value as T)}>
                {choices.map(([value, text]) => <option key={value} value={value}>{text}</option>)}
            </select>
        </label>
    );
}

function SignIn(props: { isWrong: boolean; onTry: () => void }) {
    const { say } = useShared();
    const input = useRef<HTMLInputElement>(null);
    useEffect(() => input.current?.focus(), []);
    return (
        <form
            class="panel sign-in"
            onSubmit={(event) => {
                event.preventDefault();
                token.set(input.current?.value.trim() ?? '');
                props.onTry();
            }}
        >
            <h1 tabIndex={-1}>{say('signIn')}</h1>
            <p id="why">{say('signInWhy')}</p>
            {props.isWrong && <p class="notice bad" role="alert">{say('wrongToken')}</p>}
            {/* Browsers keep passwords by name. */}
            <input type="text" autocomplete="username" value="operator" readOnly hidden />
            <label for="token">{say('token')}</label>
            <input id="token" ref={input} type="password" autocomplete="current-password" aria-describedby="why" required />
            <button type="submit" class="main">{say('go')}</button>
        </form>
    );
}


render(<App />, document.getElementById('app')!);
