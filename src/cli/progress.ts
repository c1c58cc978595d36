import { Presets, SingleBar } from 'cli-progress';

/** One piece of work with a known size, shown with the time left. */
export interface ProgressTask {
  /** @param value how much of the total is done @param note a short figure shown behind the bar */
  update(value: number, note?: string): void;
  /** Ends the bar and leaves one line that says what came out of it. */
  done(result: string): void;
}

export interface Progress {
  task(label: string, total: number): ProgressTask;
  /** A line of its own. */
  say(line: string): void;
}

/** A log without a terminal gets one line when a task starts, one when it ends, and a sign of life in between. */
export const PLAIN_INTERVAL_MS = 15_000;

/** Redraws per second; more only costs CPU that measurements want. */
const BAR_FPS = 5;

/** Bars on a terminal, sparse plain lines elsewhere; both on standard error, so that `--json` owns standard output. */
export function terminalProgress(stream: NodeJS.WriteStream, nowMs: () => number): Progress {
  return stream.isTTY ? barProgress(stream) : plainProgress(stream, nowMs);
}

/** Says nothing. */
export const silentProgress: Progress = {
  task: () => ({ update: () => {}, done: () => {} }),
  say: () => {},
};

function barProgress(stream: NodeJS.WriteStream): Progress {
  return {
    task(label, total) {
      const bar = new SingleBar(
        {
          stream,
          fps: BAR_FPS,
          hideCursor: true,
          clearOnComplete: true,
          format: `${label.padEnd(34)} {bar} {percentage} % · {eta_formatted} left {note}`,
          barsize: 24,
          etaBuffer: 50,
        },
        Presets.rect,
      );
      bar.start(total, 0, { note: '' });
      return {
        update(value, note) {
          bar.update(value, note === undefined ? {} : { note: `· ${note}` });
        },
        done(result) {
          bar.stop();
          stream.write(`${label.padEnd(34)} ${result}\n`);
        },
      };
    },
    say: (line) => stream.write(`${line}\n`),
  };
}

function plainProgress(stream: NodeJS.WriteStream, nowMs: () => number): Progress {
  return {
    task(label, total) {
      const startedMs = nowMs();
      let spokenMs = startedMs;
      stream.write(`${label} …\n`);
      return {
        update(value, note) {
          const now = nowMs();
          if (now - spokenMs < PLAIN_INTERVAL_MS || value <= 0) return;
          spokenMs = now;
          const leftSeconds = ((now - startedMs) / value) * (total - value) * 1e-3;
          const share = Math.round((100 * value) / total);
          stream.write(
            `  ${label}: ${share} %, ${formatSeconds(leftSeconds)} left${note ? `, ${note}` : ''}\n`,
          );
        },
        done: (result) => stream.write(`${label}: ${result}\n`),
      };
    },
    say: (line) => stream.write(`${line}\n`),
  };
}

/** `95` → `1 min 35 s`. */
export function formatSeconds(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
