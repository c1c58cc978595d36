import { useEffect, useRef, useState } from 'preact/hooks';
import { problemOf, storedToken, storeToken } from './api.ts';

/** What a dialog needs that asks the server for a change: its element, the token, whether it waits, and what went wrong. */
export function useChange({
  needsToken,
  onClose,
}: {
  readonly needsToken: boolean;
  readonly onClose: () => void;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [token, setToken] = useState(storedToken());
  const [problem, setProblem] = useState('');
  const [isBusy, setBusy] = useState(false);

  useEffect(() => {
    dialog.current!.showModal();
  }, []);

  /** Does what the dialog is for, keeps a token that was good, and closes it; what went wrong is told in it. */
  const apply = async (change: (token: string) => Promise<void>) => {
    setBusy(true);
    setProblem('');
    try {
      await change(token);
      if (needsToken) storeToken(token);
      onClose();
    } catch (thrown) {
      setProblem(problemOf(thrown));
    } finally {
      setBusy(false);
    }
  };
  return { dialog, token, setToken, problem, setProblem, isBusy, apply };
}
