import {
  CLOSED_LOOP_DEFAULTS,
  findMaximalThroughput,
  measureThroughput,
  UNBATCHED_PER_CPU,
} from '../../load/closed-loop.ts';
import type { LabelledInputs } from '../../load/labelled-inputs.ts';
import type { Lab } from '../lab.ts';
import { patiently } from './patiently.ts';
import { startTestedServer, type TestedServer } from './server.ts';

/** A server on which one version after the other is driven to its maximum. */
export interface Bench {
  readonly server: TestedServer;
  /** Makes these versions of a task ready, and no others. */
  ready(task: string, versions: readonly number[]): Promise<void>;
  /** Asks a fresh server until it is as fast as it gets, once. The version has to be ready. */
  warm(subject: Subject): Promise<void>;
  /**
   * Maximal throughput, so many times, and the requests under way at which it was found. The version has to be ready.
   * @param concurrency where it is known from before
   */
  throughputs(
    subject: Subject,
    repeats: number,
    concurrency?: number,
  ): Promise<{ readonly ratesRps: number[]; readonly concurrency: number }>;
  /** Throughput where no requests are joined into a batch, so many times. After `throughputs`, which warms the server. */
  unbatched(subject: Subject, repeats: number): Promise<number[]>;
  close(): Promise<void>;
}

export interface Subject {
  readonly task: string;
  readonly version: number;
  readonly inputs: LabelledInputs;
}

/** More requests under way than that only fill the queue of a server of two CPUs. */
const CONCURRENCIES = [2, 4, 8, 16];

/** The rise that finds the concurrency is quicker than what counts. */
const RISE_WINDOW_RATIO = 0.5;

/** Requests after which a fresh server is as fast as it gets: in its first thousands, Node.js still compiles. */
const WARM_REQUESTS = 4_000;
const WARM_MS = { full: 4_000, quick: 2_000, tiny: 0 } as const;
const WARM_WINDOW_MS = 500;

/** Opens a server with a version of each task. @param flags of `bonsai serve` @throws BonsaiError `load_failed` */
export async function openBench(
  lab: Lab,
  cpus: readonly number[],
  flags: readonly string[] = [],
): Promise<Bench> {
  const { clock, scale, seed, signal } = lab;
  const server = await startTestedServer(lab, {
    cpus,
    flags: ['--initial', 'smallest', '--log-level', 'error', ...flags],
  });
  const { windowMs } = scale;
  const loadOf = ({ task, version, inputs }: Subject) => ({
    url: server.url,
    model: task,
    version: String(version),
    inputs,
    clock,
    seed,
    signal,
    warmupMs: Math.min(CLOSED_LOOP_DEFAULTS.warmupMs, windowMs),
  });
  const measure = async (subject: Subject, concurrency: number, repeats: number) => {
    const rates: number[] = [];
    for (let i = 0; i < repeats; i++) {
      const { throughputRps } = await patiently(windowMs, (durationMs) =>
        measureThroughput({ ...loadOf(subject), concurrency, durationMs, seed: seed + i }),
      );
      rates.push(throughputRps);
    }
    return rates;
  };
  const rise = async (subject: Subject) => {
    const { concurrency } = await patiently(RISE_WINDOW_RATIO * windowMs, (durationMs) =>
      findMaximalThroughput({ ...loadOf(subject), concurrencies: CONCURRENCIES, repeats: 1, durationMs }),
    );
    return concurrency;
  };
  let isWarm = false;
  const warm = async (subject: Subject) => {
    const warmMs = WARM_MS[scale.name];
    for (let answered = 0, startMs = clock.nowMs(); !isWarm && answered < WARM_REQUESTS; ) {
      if (clock.nowMs() - startMs >= warmMs) break;
      const window = await patiently(WARM_WINDOW_MS, (durationMs) =>
        measureThroughput({ ...loadOf(subject), concurrency: 4, warmupMs: 0, durationMs }),
      );
      answered += window.answered;
    }
    isWarm = true;
  };
  return {
    server,
    ready: (task, versions) => server.adapter.setResident!(task, versions, undefined, signal),
    warm,
    async throughputs(subject, repeats, known) {
      await warm(subject);
      const concurrency = known ?? (await rise(subject));
      return { ratesRps: await measure(subject, concurrency, repeats), concurrency };
    },
    unbatched: (subject, repeats) => measure(subject, UNBATCHED_PER_CPU * cpus.length, repeats),
    close: () => server.close(),
  };
}

/** About how long it takes to start a bench and to end it. */
export function benchMs({ scale }: Pick<Lab, 'scale'>): number {
  return WARM_MS[scale.name] + 2_500;
}

/** About how long `throughputs` takes, for the time left. */
export function throughputsMs({ scale }: Pick<Lab, 'scale'>, repeats: number): number {
  const { windowMs } = scale;
  const warmupMs = Math.min(CLOSED_LOOP_DEFAULTS.warmupMs, windowMs);
  return 4 * (warmupMs + RISE_WINDOW_RATIO * windowMs) + repeats * (warmupMs + windowMs);
}
