import type { Logger } from 'pino';

/** A policy that fails may fail at each request: after the first time only the number is told, this often. */
export const FAILURE_REPORT_MS = 60_000;

/**
 * Writes into the log that the dispatch of a policy failed: at once, and while it goes on failing once a minute how often.
 * @returns to be told each failure
 */
export function dispatchFailureLog(logger: Logger, nowMs: () => number): (reason: string) => void {
  let quietUntilMs = Number.NEGATIVE_INFINITY;
  let untold = 0;
  return (reason) => {
    untold++;
    if (nowMs() < quietUntilMs) return;
    logger.error(
      { reason, ...(untold > 1 && { failures: untold }) },
      untold > 1
        ? 'the default dispatch has taken over so many times since this was told last'
        : 'the default dispatch takes over for one decision; further times are told once a minute',
    );
    quietUntilMs = nowMs() + FAILURE_REPORT_MS;
    untold = 0;
  };
}
