import { useEffect, useRef, useState } from 'preact/hooks';
import type { ServerRecord } from '../../src/orchestrate/fleet/record.ts';
import { postChange, problemOf, storedToken, storeToken } from './api.ts';
import { TokenField } from './token-field.tsx';

/** Empties a server, or takes it back. */
export function DrainDialog(props: {
  readonly server: ServerRecord;
  readonly needsToken: boolean;
  readonly onClose: () => void;
}) {
  const { server, needsToken, onClose } = props;
  const dialog = useRef<HTMLDialogElement>(null);
  const [token, setToken] = useState(storedToken());
  const [problem, setProblem] = useState('');
  const [isBusy, setBusy] = useState(false);
  const isDrained = server.isDrained === true;
  const tasks = server.tasks.filter(({ version }) => version !== undefined).map(({ task }) => task);

  useEffect(() => {
    dialog.current!.showModal();
  }, []);

  const apply = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setProblem('');
    try {
      const path = `fleet/servers/${encodeURIComponent(server.name)}/drain`;
      await postChange(path, {}, { isDrained: !isDrained }, token);
      if (needsToken) storeToken(token);
      onClose();
    } catch (thrown) {
      setProblem(problemOf(thrown));
    } finally {
      setBusy(false);
    }
  };

  return (
    <dialog ref={dialog} onClose={onClose} aria-labelledby="drain-title">
      <form onSubmit={apply}>
        <h2 id="drain-title" class="title">
          {isDrained ? 'Take back' : 'Drain'} {server.name}
        </h2>
        <p>
          {isDrained
            ? 'It gets tasks and requests again, as the plan sees fit.'
            : `It gets no more requests, and ${tasks.length === 0 ? 'no tasks' : `${tasks.join(', ')} ${tasks.length === 1 ? 'moves' : 'move'} to other servers`}. What no other server can serve stays. That lasts until it is taken back, also over a new start of the orchestrator.`}
        </p>
        {needsToken && <TokenField token={token} onInput={setToken} />}
        {problem !== '' && (
          <p role="alert" class="bad">
            {problem}
          </p>
        )}
        <div class="actions">
          <button type="button" onClick={() => dialog.current!.close()}>
            Cancel
          </button>
          <button type="submit" class="primary" disabled={isBusy}>
            {isBusy ? 'Applying…' : isDrained ? 'Take back' : 'Drain'}
          </button>
        </div>
      </form>
    </dialog>
  );
}
