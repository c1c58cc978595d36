import { TokenField } from './token-field.tsx';
import type { useChange } from './use-change.ts';

/** The end of each dialog that changes something: the token where one is asked for, what went wrong, and the buttons. */
export function DialogEnd(props: {
  readonly change: ReturnType<typeof useChange>;
  readonly needsToken: boolean;
  /** What the button does, as in "Drain". */
  readonly label: string;
}) {
  const { change, needsToken, label } = props;
  const { dialog, token, setToken, problem, isBusy } = change;
  return (
    <>
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
          {isBusy ? 'Applying…' : label}
        </button>
      </div>
    </>
  );
}
