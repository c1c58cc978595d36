import type { ServerRecord } from '../../src/orchestrate/fleet/record.ts';
import { postChange } from './api.ts';
import { DialogEnd } from './dialog-end.tsx';
import { useChange } from './use-change.ts';

/** Empties a server, or takes it back. */
export function DrainDialog(props: {
  readonly server: ServerRecord;
  readonly needsToken: boolean;
  readonly onClose: () => void;
}) {
  const { server, needsToken, onClose } = props;
  const change = useChange({ needsToken, onClose });
  const isDrained = server.isDrained === true;
  const tasks = server.tasks.filter(({ version }) => version !== undefined).map(({ task }) => task);

  const onSubmit = (event: Event) => {
    event.preventDefault();
    const path = `fleet/servers/${encodeURIComponent(server.name)}/drain`;
    void change.apply((token) => postChange(path, {}, { isDrained: !isDrained }, token));
  };

  return (
    <dialog ref={change.dialog} onClose={onClose} aria-labelledby="drain-title">
      <form onSubmit={onSubmit}>
        <h2 id="drain-title" class="title">
          {isDrained ? 'Take back' : 'Drain'} {server.name}
        </h2>
        <p>
          {isDrained
            ? 'It gets tasks and requests again, as the plan sees fit.'
            : `It gets no more requests, and ${tasks.length === 0 ? 'no tasks' : `${tasks.join(', ')} ${tasks.length === 1 ? 'moves' : 'move'} to other servers`}. What no other server can serve stays. That lasts until it is taken back, also over a new start of the orchestrator.`}
        </p>
        <DialogEnd change={change} needsToken={needsToken} label={isDrained ? 'Take back' : 'Drain'} />
      </form>
    </dialog>
  );
}
