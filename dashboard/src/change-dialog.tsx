import { useState } from 'preact/hooks';
import type { TaskOverview } from '../../src/serve/control/messages.ts';
import { postChange } from './api.ts';
import { DialogEnd } from './dialog-end.tsx';
import { percent } from './format.ts';
import { useChange } from './use-change.ts';

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
  const change = useChange({ needsToken, onClose });
  const [version, setVersion] = useState(task.pinnedVersion?.toString() ?? '');
  const [slo, setSlo] = useState(task.isSloByHand ? String(task.sloMs) : '');

  const onSubmit = (event: Event) => {
    event.preventDefault();
    const sloMs = slo.trim() === '' ? null : Number(slo);
    if (sloMs !== null && !(sloMs >= 1 && sloMs <= 600_000)) {
      change.setProblem('The objective should be between 1 and 600000 ms.');
      return;
    }
    const pinned = version === '' ? null : Number(version);
    void change.apply(async (token) => {
      const send = (what: 'pin' | 'slo', body: object) =>
        postChange(`tasks/${encodeURIComponent(task.task)}/${what}`, { server }, body, token);
      if (sloMs !== (task.isSloByHand ? task.sloMs : null)) await send('slo', { sloMs });
      if (pinned !== (task.pinnedVersion ?? null)) await send('pin', { version: pinned });
    });
  };

  return (
    <dialog ref={change.dialog} onClose={onClose} aria-labelledby="change-title">
      <form onSubmit={onSubmit}>
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
        <DialogEnd change={change} needsToken={needsToken} label="Apply" />
      </form>
    </dialog>
  );
}
