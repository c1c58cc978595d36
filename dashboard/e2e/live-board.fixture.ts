import type { AddressInfo } from 'node:net';
import { Board, type Look } from '../../src/serve/control/board.ts';
import type { TaskFrame, TaskOverview } from '../../src/serve/control/messages.ts';
import { createControlServer } from '../../src/serve/control/server.ts';
import { Access } from '../../src/serve/safety/tokens.ts';

const START_MS = Date.UTC(2026, 0, 1, 12);
const VERSIONS = [1, 2, 3, 4, 5, 6];

export const TASKS = ['cameras', 'digits', 'signs'];

/** What tasks at some 200 requests a second each do in a second, as a server would tell it. @param scale of their demand */
export function lookAt(second: number, tasks: readonly string[] = TASKS, scale = 1): Look {
  const frames = tasks.map((task, i): [string, TaskFrame] => {
    const level = Math.sin(second / (60 + 40 * i));
    const arrivals = Math.round(scale * (200 + 80 * level));
    const version = 1 + Math.min(VERSIONS.length - 1, Math.floor(3 * (1 + level)));
    const slow = 5 + ((second * 7) % 23);
    const dots = Array.from({ length: 6 }, (_, k) => [
      k * 160,
      slow + ((second * 7 + k * 13) % 70) * (k === 5 ? 1.4 : 0.5),
      version,
    ]).flat();
    const violations = second % 50 < 3 ? Math.round(scale * 6) : 0;
    return [
      task,
      {
        arrivals,
        answered: arrivals - violations,
        late: violations >> 1,
        refused: violations - (violations >> 1),
        queued: Math.round((scale * (second % 9)) / (i + 1)),
        sloMs: 100,
        p50Ms: 12 + i,
        p99Ms: 60 + ((second * 7) % 40),
        maxMs: 95,
        servingVersion: version,
        resident: Object.fromEntries(VERSIONS.filter((v) => v >= version).map((v) => [v, 10 / v])),
        answersBy: { [version]: arrivals - 12, [Math.min(VERSIONS.length, 1 + version)]: 10 },
        dots,
        totals: {
          accepted: Math.round(scale * 200) * second,
          refused: Math.round(scale * second),
          invalid: 0,
          late: Math.round(scale * second),
        },
      },
    ];
  });
  return {
    atMs: START_MS + 1000 * second,
    spanMs: 1000,
    cpuUtilization: 0.6 + 0.3 * Math.sin(second / 80),
    memoryBytes: 3e8,
    tasks: Object.fromEntries(frames),
  };
}

function overviewOf(task: string): TaskOverview {
  const versions = VERSIONS.map((version) => ({
    version,
    accuracy: 0.95 - 0.02 * version,
    throughputRps: 100 * 2 ** version,
    isOnFrontier: true,
  }));
  return { task, sloMs: 100, isSloByHand: false, versions };
}

export interface LiveBoard {
  readonly url: string;
  /** Seconds told so far. */
  readonly second: number;
  /** Tells so many seconds more, at once. */
  push(count: number): void;
  close(): Promise<void>;
}

/** A control port of a made-up server. */
export async function liveBoard(
  options: {
    readonly tasks?: readonly string[];
    readonly overview?: (task: string) => TaskOverview;
    readonly look?: (second: number) => Look;
    readonly access?: Access;
    readonly policy?: string;
  } = {},
): Promise<LiveBoard> {
  const tasks = options.tasks ?? TASKS;
  const { overview = overviewOf, look = (at: number) => lookAt(at, tasks), access = new Access() } = options;
  const board = new Board({
    server: 'synthetic',
    describe: () => ({
      startedAtMs: START_MS,
      cpuBudgetCores: 1,
      policy: options.policy ?? 'bonsai',
      overrides: 'open',
      tasks: tasks.map(overview),
    }),
  });
  let second = 0;
  const control = createControlServer({
    watched: [{ board, overrides: { byTask: new Map(), pin: async () => {}, setSlo: () => {} } }],
    access,
    clock: { nowMs: () => 0, epochMs: () => START_MS + 1000 * second },
    host: '127.0.0.1',
    onError: (thrown) => {
      throw thrown;
    },
  });
  await new Promise<void>((resolve) => control.server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(control.server.address() as AddressInfo).port}/`, // A listening TCP server has one.
    get second() {
      return second;
    },
    push(count) {
      for (let i = 0; i < count; i++) {
        second++;
        if (second % 20 === 0 && tasks.length > 0) {
          const task = tasks[(second / 20) % tasks.length];
          const version = 1 + ((second / 20) % VERSIONS.length);
          board.tell({
            atMs: look(second).atMs,
            kind: 'decision',
            reason: `Demand of ${task} is ${(180 + (second % 70)).toFixed(1)} req/s, above the 180.0 that version ${version} can carry within 100 ms.`,
            changes: [`load version ${version} of ${task}`],
          });
        }
        control.push(board, look(second));
      }
    },
    async close() {
      control.endStreams();
      control.server.closeAllConnections();
      await new Promise((resolve) => control.server.close(resolve));
    },
  };
}
