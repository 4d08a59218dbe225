// Asks before something that cannot be undone. The browser's own dialog keeps the focus within, and gives it back.
import { useEffect, useRef } from 'preact/hooks';
import { useShared } from './shared';

export function Confirm(props: { text: string; action: string; onAnswer: (isYes: boolean) => void }) {
    const { say } = useShared();
    const dialog = useRef<HTMLDialogElement>(null);
    useEffect(() => {
        const before = document.activeElement as HTMLElement | null;
        dialog.current?.showModal();
        return () => before?.focus();
    }, []);
    return (
        <dialog
            ref={dialog}
            aria-labelledby="asked"
            onCancel={(event) => (event.preventDefault(), props.onAnswer(false))}
        >
            <p id="asked">{props.text}</p>
            <div class="answers">
                <button type="button" onClick={() => props.onAnswer(false)}>{say('cancel')}</button>
                <button type="button" class="danger" onClick={() => props.onAnswer(true)}>{props.action}</button>
            </div>
        </dialog>
    );
}
