import { BonsaiError } from '../../base/errors.ts';

/** A window without any answer, on a machine that was busy for a moment or with a slow network, is no reason to lose an hour. */
export async function patiently<T>(
  durationMs: number,
  measure: (durationMs: number) => Promise<T>,
): Promise<T> {
  for (const factor of LONGER_WINDOWS) {
    try {
      return await measure(factor * durationMs);
    } catch (thrown) {
      if (!(thrown instanceof BonsaiError) || thrown.code !== 'server_unreachable') throw thrown;
    }
  }
  return measure(Math.max(LAST_WINDOW * durationMs, LAST_WINDOW_MS));
}

const LONGER_WINDOWS = [1, 4];
const LAST_WINDOW = 16;
const LAST_WINDOW_MS = 5_000;
