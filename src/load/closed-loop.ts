import type { Clock } from '../base/clock.ts';
import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import { seededRandom } from '../base/random.ts';
import { type Summary, summarize } from '../base/statistics.ts';
import { InferClient } from './infer-client.ts';
import { cycledOrder, type LabelledInputs } from './labelled-inputs.ts';

export const CLOSED_LOOP_DEFAULTS = {
  /** Requests kept under way, tried one after another. */
  concurrencies: [1, 2, 4, 8, 16],
  /** A rise of throughput by less than this ratio is noise: repeats on a quiet machine spread by 1 to 3 %. */
  growthThreshold: 0.03,
  /** Concurrencies in a row without a rise that end the search: one may be a disturbance, or one before larger batches form. */
  flatSteps: 2,
  /** Three give a median that one disturbed run cannot move. */
  repeats: 3,
  /** Past the first requests of a connection and a version (JIT, caches, CPU frequency). */
  warmupMs: 300,
  /** One second holds 100 answers of a network of 10 ms: counting errs by 1 % at most. */
  durationMs: 1000,
  /** Longer than any answer of a full queue. */
  timeoutMs: 30_000,
} as const;

/** Requests under way for each CPU of a server: one is computed and its successor waits, so that there is nothing to join. */
export const UNBATCHED_PER_CPU = 2;

/** After a refusal or an error a client waits this long, so that a server in trouble is not hammered. */
export const PAUSE_AFTER_FAILURE_MS = 10;

export interface ThroughputOptions {
  readonly url: string;
  readonly model: string;
  readonly version?: string;
  readonly inputs: LabelledInputs;
  readonly clock: Clock;
  readonly seed: number;
  readonly warmupMs?: number;
  readonly durationMs?: number;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** What a server did with a constant number of requests under way. */
export interface Throughput {
  readonly concurrency: number;
  readonly throughputRps: number;
  /** Answers in the measured window. */
  readonly answered: number;
  /** Refusals and failures in the measured window. */
  readonly failed: number;
  /** The share of right answers among the answered. */
  readonly accuracy: number;
  readonly latencyMs: Summary;
}

export interface MaximalThroughput {
  /** The concurrency at which throughput had stopped rising. */
  readonly concurrency: number;
  /** Over the repeats at that concurrency. */
  readonly throughputRps: Summary;
  /** Every measurement made: the rise first, then the repeats. */
  readonly measurements: readonly Throughput[];
}

/**
 * Raises the number of requests under way until throughput has grown by less than `growthThreshold` `flatSteps` times in a
 * row, then repeats the measurement at the best one. Its median is the maximal throughput, min and max its spread.
 * @throws BonsaiError `server_unreachable` if nothing is answered, `aborted` on `signal`.
 */
export async function findMaximalThroughput(
  options: ThroughputOptions & {
    readonly concurrencies?: readonly number[];
    readonly growthThreshold?: number;
    readonly repeats?: number;
    readonly onMeasured?: (measured: Throughput) => void;
  },
): Promise<MaximalThroughput> {
  const concurrencies = options.concurrencies ?? CLOSED_LOOP_DEFAULTS.concurrencies;
  const growthThreshold = options.growthThreshold ?? CLOSED_LOOP_DEFAULTS.growthThreshold;
  const repeats = options.repeats ?? CLOSED_LOOP_DEFAULTS.repeats;
  if (concurrencies.length === 0 || repeats < 1) {
    throw new InvalidArgumentError('Maximal throughput needs at least one concurrency and one repeat.');
  }
  const measurements: Throughput[] = [];
  const measure = async (concurrency: number) => {
    const measured = await measureThroughput({
      ...options,
      concurrency,
      seed: options.seed + measurements.length,
    });
    measurements.push(measured);
    options.onMeasured?.(measured);
    return measured;
  };
  let best: Throughput | undefined;
  let flat = 0;
  for (const concurrency of concurrencies) {
    const measured = await measure(concurrency);
    const rose = best === undefined || measured.throughputRps >= best.throughputRps * (1 + growthThreshold);
    flat = rose ? 0 : flat + 1;
    if (best === undefined || measured.throughputRps > best.throughputRps) best = measured;
    if (flat === CLOSED_LOOP_DEFAULTS.flatSteps) break;
  }
  const { concurrency } = best!; // There is at least one concurrency.
  const repeated: number[] = [];
  for (let i = 0; i < repeats; i++) repeated.push((await measure(concurrency)).throughputRps);
  return { concurrency, throughputRps: summarize(repeated), measurements };
}

/**
 * Keeps `concurrency` requests under way for `warmupMs` + `durationMs` and counts the answers of the latter.
 * The count is divided by the time from the last answer before the window to the last one in it, which for
 * a slow network or answers in batches errs less than the window's own length.
 * @throws BonsaiError `server_unreachable` if nothing is answered, `aborted` on `signal`.
 */
export async function measureThroughput(
  options: ThroughputOptions & { readonly concurrency: number },
): Promise<Throughput> {
  const { clock, concurrency, inputs, signal } = options;
  const warmupMs = options.warmupMs ?? CLOSED_LOOP_DEFAULTS.warmupMs;
  const durationMs = options.durationMs ?? CLOSED_LOOP_DEFAULTS.durationMs;
  const timeoutMs = options.timeoutMs ?? CLOSED_LOOP_DEFAULTS.timeoutMs;
  if (!(Number.isInteger(concurrency) && concurrency > 0)) {
    throw new InvalidArgumentError(`Concurrency must be a whole number > 0, got ${concurrency}.`);
  }
  const client = new InferClient({ ...options, connections: concurrency });
  const items = inputs.labels.length;
  const order = cycledOrder(items, items, seededRandom(options.seed).fork('inputs'));
  client.prepare(order);

  const windowStartMs = clock.nowMs() + warmupMs;
  const windowEndMs = windowStartMs + durationMs;
  let firstMs = windowStartMs;
  let lastMs = windowStartMs;
  let [next, failed, correct, everAnswered] = [0, 0, 0, 0];
  let reason = '';
  const latenciesMs: number[] = [];

  const keepOneUnderWay = async () => {
    for (;;) {
      const sentMs = clock.nowMs();
      if (sentMs >= windowEndMs || signal?.aborted) return;
      const limit = new AbortController();
      const timer = setTimeout(() => limit.abort(), timeoutMs);
      const answer = await client.infer(order[next++ % items]!, limit.signal);
      clearTimeout(timer);
      const nowMs = clock.nowMs();
      if (answer.outcome === 'ok') everAnswered++;
      else reason = answer.reason ?? '';
      if (nowMs < windowStartMs) {
        if (answer.outcome === 'ok') firstMs = nowMs;
      } else if (nowMs < windowEndMs) {
        if (answer.outcome === 'ok') {
          latenciesMs.push(nowMs - sentMs);
          if (answer.correct) correct++;
          lastMs = nowMs;
        } else failed++;
      }
      if (answer.outcome !== 'ok')
        await new Promise((resolve) => setTimeout(resolve, PAUSE_AFTER_FAILURE_MS));
    }
  };
  try {
    await Promise.all(Array.from({ length: concurrency }, keepOneUnderWay));
  } finally {
    await client.close();
  }
  if (signal?.aborted) throw new BonsaiError('aborted', 'Measuring throughput was aborted.');
  const answered = latenciesMs.length;
  if (answered === 0) {
    const hint = everAnswered > 0 ? `answers take longer than ${durationMs} ms` : reason;
    throw new BonsaiError(
      'server_unreachable',
      `${options.url} answered no request for model ${options.model} in ${durationMs} ms: ${hint}.`,
    );
  }
  return {
    concurrency,
    throughputRps: (answered * 1000) / (lastMs - firstMs),
    answered,
    failed,
    accuracy: correct / answered,
    latencyMs: summarize(latenciesMs),
  };
}
