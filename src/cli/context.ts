import { setMaxListeners } from 'node:events';
import { type Clock, systemClock } from '../base/clock.ts';
import { BonsaiError, messageOf } from '../base/errors.ts';
import { type Progress, silentProgress, terminalProgress } from './progress.ts';
import { isStandardOutput } from './writable.ts';

/** What every command gets from the outside world; the only place where the real clock and signals come in. */
export interface Context {
  readonly clock: Clock;
  readonly progress: Progress;
  /** Aborts on the first SIGINT or SIGTERM; one that comes later than `REPEAT_MS` ends the process at once. */
  readonly signal: AbortSignal;
  readonly json: boolean;
  /**
   * Writes a result to standard output: the value as JSON under `--json`, the text otherwise.
   * @param written the file that the command wrote; where that is standard output itself, the result goes to standard error
   */
  result(value: unknown, text: string, written?: string): void;
}

export function processContext(options: { json?: boolean; quiet?: boolean }): Context {
  const controller = new AbortController();
  // Each request to a store listens to it for as long as it is under way, and there may be many.
  setMaxListeners(0, controller.signal);
  let firstMs = 0;
  const stop = (signal: NodeJS.Signals) => {
    if (!controller.signal.aborted) {
      firstMs = systemClock.nowMs();
      controller.abort(new BonsaiError('aborted', `Stopped by ${signal}.`));
    } else if (systemClock.nowMs() - firstMs > REPEAT_MS) {
      // Not process.exit: threads inside the engine would be torn down in mid-air.
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
    }
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  const json = options.json ?? false;
  return {
    clock: systemClock,
    progress: options.quiet ? silentProgress : terminalProgress(process.stderr, systemClock.nowMs),
    signal: controller.signal,
    json,
    result: (value, text, written) => {
      const stream = written !== undefined && isStandardOutput(written) ? process.stderr : process.stdout;
      stream.write(json ? `${JSON.stringify(value, null, 2)}\n` : `${text}\n`);
    },
  };
}

/** A signal that comes again this soon is the same one: `timeout` and terminals send it to the process and to its group. */
export const REPEAT_MS = 500;

/**
 * Does a command's work. Once a signal has come, whatever the work ends with is a consequence of it (a request given
 * up, a child process that got the same signal), and is told as such.
 * @param goOn what becomes of the work done so far and how to go on; a sentence
 * @throws BonsaiError `aborted` after a signal, with the work's own error as its cause; else what the work throws, with
 *   `goOn` behind it where a server did not start
 */
export async function interruptible<T>(
  signal: AbortSignal,
  goOn: string,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (signal.aborted) throw new BonsaiError('aborted', `${messageOf(signal.reason)} ${goOn}`, { cause });
    // A server that did not start for want of CPU may the next time; what was wrong with the input stays so.
    if (cause instanceof BonsaiError && cause.code === 'load_failed')
      throw new BonsaiError('load_failed', `${cause.message}\n${goOn}`, { cause });
    throw cause;
  }
}
