import { unwatchFile, watchFile } from 'node:fs';

/** How often files are looked at. By time and size, since they may lie where the system reports no changes. */
export const WATCH_INTERVAL_MS = 1_000;

/**
 * Calls back after any of the files has changed.
 * @returns stops watching
 */
export function watchFiles(
  files: readonly string[],
  onChange: () => void,
  intervalMs = WATCH_INTERVAL_MS,
): () => void {
  const listener = (now: { mtimeMs: number; size: number; ino: number }, before: typeof now) => {
    if (now.mtimeMs !== before.mtimeMs || now.size !== before.size || now.ino !== before.ino) onChange();
  };
  for (const file of files) watchFile(file, { interval: intervalMs, persistent: false }, listener);
  return () => {
    for (const file of files) unwatchFile(file, listener);
  };
}
