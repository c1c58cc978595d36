import { useEffect, useRef, useState } from 'preact/hooks';
import type { TaskOverview } from '../../src/serve/control/messages.ts';
import { postChange, problemOf, storedToken, storeToken } from './api.ts';
import { percent } from './format.ts';
import { TokenField } from './token-field.tsx';

/** Pins a version and sets the objective of a task. */
export function ChangeDialog(props: {
  readonly task: TaskOverview;
  readonly policy: string | undefined;
  /** That is asked; undefined: its first. */
  readonly server?: string;
  readonly needsToken: boolean;
  /** How far and how long a change counts, where that is not until the program ends. */
  readonly lasting?: string;
  readonly onClose: () => void;
}) {
  const { task, policy, server, needsToken, lasting, onClose } = props;
  const dialog = useRef<HTMLDialogElement>(null);
  const [version, setVersion] = useState(task.pinnedVersion?.toString() ?? '');
  const [slo, setSlo] = useState(task.isSloByHand ? String(task.sloMs) : '');
  const [token, setToken] = useState(storedToken());
  const [problem, setProblem] = useState('');
  const [isBusy, setBusy] = useState(false);

  useEffect(() => {
    dialog.current!.showModal();
  }, []);

  const apply = async (event: Event) => {
    event.preventDefault();
    const sloMs = slo.trim() === '' ? null : Number(slo);
    if (sloMs !== null && !(sloMs >= 1 && sloMs <= 600_000)) {
      setProblem('The objective should be between 1 and 600000 ms.');
      return;
    }
    setBusy(true);
    setProblem('');
    try {
      const pinned = version === '' ? null : Number(version);
      const send = (change: 'pin' | 'slo', body: object) =>
        postChange(`tasks/${encodeURIComponent(task.task)}/${change}`, { server }, body, token);
      if (sloMs !== (task.isSloByHand ? task.sloMs : null)) await send('slo', { sloMs });
      if (pinned !== (task.pinnedVersion ?? null)) await send('pin', { version: pinned });
      if (needsToken) storeToken(token);
      onClose();
    } catch (thrown) {
      setProblem(problemOf(thrown));
    } finally {
      setBusy(false);
    }
  };

  return (
    <dialog ref={dialog} onClose={onClose} aria-labelledby="change-title">
      <form onSubmit={apply}>
        <h2 id="change-title" class="title">
          Change {task.task}
        </h2>
        <div class="field">
          <label for="pin">Version that answers</label>
          <select id="pin" value={version} onChange={(event) => setVersion(event.currentTarget.value)}>
            <option value="">{policy === undefined ? 'not pinned' : `by policy (${policy})`}</option>
            {task.versions.map((entry) => (
              <option key={entry.version} value={String(entry.version)}>
                {`v${entry.version}${entry.accuracy === undefined ? '' : ` – ${percent(entry.accuracy, 2)}`}${entry.throughputRps === undefined ? '' : `, ${entry.throughputRps.toFixed(0)}/s`}`}
              </option>
            ))}
          </select>
          <span class="hint">
            A pinned version alone answers, whatever the demand
            {lasting === undefined ? ', until it is unpinned or the program ends.' : `. ${lasting}`}
          </span>
        </div>
        <div class="field">
          <label for="slo">Latency objective in ms</label>
          <input
            id="slo"
            inputMode="decimal"
            placeholder="as configured"
            value={slo}
            onInput={(event) => setSlo(event.currentTarget.value)}
          />
          <span class="hint">
            What cannot be answered within it is refused at once. Empty: as configured.
          </span>
        </div>
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
            {isBusy ? 'Applying…' : 'Apply'}
          </button>
        </div>
      </form>
    </dialog>
  );
}
