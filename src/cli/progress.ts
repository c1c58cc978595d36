import { Presets, SingleBar } from 'cli-progress';
import { formatSeconds } from '../base/duration.ts';

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
  /**
   * Opens a block of lines at the end of the terminal that is redrawn in place; lines that are said go above it.
   * Absent where nothing can be redrawn. Bars cannot run beside it.
   */
  board?(): Board;
}

export interface Board {
  show(lines: readonly string[]): void;
  /** Leaves the last lines standing. */
  close(): void;
}

/** A log without a terminal gets one line when a task starts, one when it ends, and a sign of life in between. */
export const PLAIN_INTERVAL_MS = 15_000;

/** Redraws per second; more only costs CPU that measurements want. */
const BAR_FPS = 5;

/** Bars on a terminal, sparse plain lines elsewhere; both on standard error, so that `--json` owns standard output. */
export function terminalProgress(stream: NodeJS.WriteStream, nowMs: () => number): Progress {
  return stream.isTTY ? barProgress(stream, nowMs) : plainProgress(stream, nowMs);
}

/** Says nothing. */
export const silentProgress: Progress = {
  task: () => ({ update: () => {}, done: () => {} }),
  say: () => {},
};

function barProgress(stream: NodeJS.WriteStream, nowMs: () => number): Progress {
  let open: LiveBlock | undefined;
  return {
    board() {
      const block = liveBlock(stream, nowMs);
      open = block;
      return {
        show: block.show,
        close: () => {
          block.close();
          open = undefined;
        },
      };
    },
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
    say(line) {
      if (open === undefined) stream.write(`${line}\n`);
      else open.say(line);
    },
  };
}

interface LiveBlock extends Board {
  say(line: string): void;
}

/** Lines that are drawn over those of before, `BAR_FPS` times a second at most. */
export function liveBlock(
  stream: Pick<NodeJS.WriteStream, 'write' | 'columns' | 'rows'>,
  nowMs: () => number,
): LiveBlock {
  let drawn = 0;
  let current: readonly string[] = [];
  let drawnMs = Number.NEGATIVE_INFINITY;
  const erase = () => (drawn === 0 ? '' : `\x1b[${drawn}A\x1b[0J`);
  const draw = (above: string) => {
    // A line that wraps, or a block that scrolls, could not be erased again.
    const columns = Math.max(20, stream.columns ?? 80) - 1;
    const lines = current.slice(-(Math.max(4, stream.rows ?? 24) - 1)).map((line) => clipped(line, columns));
    stream.write(`${erase()}${above}${lines.map((line) => `${line}\n`).join('')}`);
    drawn = lines.length;
    drawnMs = nowMs();
  };
  return {
    show(lines) {
      current = lines;
      if (nowMs() - drawnMs >= 1000 / BAR_FPS) draw('');
    },
    say: (line) => draw(`${line}\n`),
    close() {
      draw('');
      drawn = 0;
    },
  };
}

function clipped(line: string, columns: number): string {
  const characters = [...line];
  return characters.length <= columns ? line : `${characters.slice(0, columns - 1).join('')}…`;
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
