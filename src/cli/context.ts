import { type Clock, systemClock } from '../base/clock.ts';
import { BonsaiError } from '../base/errors.ts';
import { type Progress, silentProgress, terminalProgress } from './progress.ts';

/** What every command gets from the outside world; the only place where the real clock and signals come in. */
export interface Context {
  readonly clock: Clock;
  readonly progress: Progress;
  /** Aborts on the first SIGINT or SIGTERM; a second one ends the process at once. */
  readonly signal: AbortSignal;
  readonly json: boolean;
  /** Writes a result to standard output: the value as JSON under `--json`, the text otherwise. */
  result(value: unknown, text: string): void;
}

export function processContext(options: { json?: boolean; quiet?: boolean }): Context {
  const controller = new AbortController();
  const stop = (signal: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new BonsaiError('aborted', `Stopped by ${signal}; finished steps are kept.`));
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  const json = options.json ?? false;
  return {
    clock: systemClock,
    progress: options.quiet ? silentProgress : terminalProgress(process.stderr, systemClock.nowMs),
    signal: controller.signal,
    json,
    result: (value, text) => {
      process.stdout.write(json ? `${JSON.stringify(value, null, 2)}\n` : `${text}\n`);
    },
  };
}
