import { BonsaiError, messageOf } from '../base/errors.ts';
import type { TargetDescription } from '../engine/target.ts';
import {
  CLOSED_LOOP_DEFAULTS,
  findMaximalThroughput,
  measureThroughput,
  UNBATCHED_PER_CPU,
} from '../load/closed-loop.ts';
import {
  addStreams,
  CONTEST_REQUESTS_PER_WINDOW,
  type Contestant,
  type StreamCount,
  whileContested,
} from '../load/contest.ts';
import { InferClient } from '../load/infer-client.ts';
import type { LabelledInputs } from '../load/labelled-inputs.ts';
import type { Throughput } from '../port/pipeline/types.ts';
import { type LatencyMeasurement, latencyDefaults, summarizeLatencies } from '../port/profile/latency.ts';
import { repeatDefaults, repeatUntilStable, untilAnswered } from '../port/profile/throughput.ts';
import type { ContestedThroughput, Measurement, Profile, TaskManifest } from '../repository/types.ts';
import type { Context } from './context.ts';
import { type ProfiledServer, profiledServer } from './profile-server.ts';
import { startServerProcess } from './server-process.ts';

/** A model as it is measured. */
export interface Subject {
  readonly task: string;
  readonly version: number;
  readonly inputs: LabelledInputs;
}

/** Maximal throughput, and the share of right answers that came with it. */
export interface MeasuredThroughput extends Throughput {
  readonly noisy?: true;
  readonly answers: { readonly count: number; readonly accuracy: number };
}

/** A server, started here or running elsewhere, with what can be measured on it. */
export interface ServerBench {
  /** What the server runs on. */
  readonly target: TargetDescription;
  readonly server: ProfiledServer;
  /** Whether it was started here, for nobody else. */
  readonly isOwn: boolean;
  throughput(subject: Subject): Promise<MeasuredThroughput>;
  /** Throughput where no requests are joined into a batch. @param maximum what is known, and may be the same */
  unbatched(
    subject: Subject,
    maximum: Pick<MeasuredThroughput, 'throughputRps' | 'concurrency'>,
  ): Promise<Measurement>;
  /** Throughput while the contestant takes a share of its own maximum. Both have to be ready. */
  contested(
    subject: Subject,
    contest: { readonly contestant: Contestant; readonly maximumRps: number; readonly share: number },
  ): Promise<Omit<ContestedThroughput, 'by' | 'share' | 'maximumRps'>>;
  /** Single inferences one after the other on the server itself. */
  latency(
    subject: Subject,
    runs: number,
  ): Promise<Pick<Profile, 'latencySource'> & { latencyMs: LatencyMeasurement }>;
  /**
   * Median time of loading a version, as the client sees it; undefined where the version cannot be taken out of memory
   * for it. Leaves it ready, alone of its task.
   * @param others versions of the task to put in its place on a server that others may use
   */
  load(task: string, version: number, others: readonly number[]): Promise<number | undefined>;
  /** Makes versions of tasks ready. */
  ready(task: string, versions: readonly number[]): Promise<void>;
  /** Puts back what a running server had ready, and leaves it; ends a server of its own. */
  close(): Promise<void>;
}

/** A quick rise finds the concurrency; the repeats that count are longer. */
const RISE_WARMUP_MS = 100;
const RISE_WINDOW_MS = 400;
/** Of the window of the repeats, where that has to be long. */
const RISE_WINDOW_RATIO = 0.4;
/** Beyond the first, jobs are joined or more slots filled. */
const RISE_CONCURRENCIES = [2, 4, 8, 16, 32];

/** Loads that the load time is the median of: one disturbed load does not move it. */
export const LOAD_REPEATS = 3;

/** Before a load: threads that the server boots ahead of need, and memory that the last version frees, have settled. */
export const LOAD_PAUSE_MS = 300;

/**
 * Requests after which a fresh server is as fast as it gets: Node.js compiles in tiers, and in its first 3,000 requests a
 * server answered 12 % less of a network of 2.3 ms.
 */
const WARM_REQUESTS = 4000;
/** No longer than so many windows, for slow networks: beside their inferences, the rest hardly counts. */
const WARM_WINDOWS = 10;

/** Longer than the slowest answer that a measurement waits for at its end. */
const LAST_ANSWER_MS = 30_000;

export interface ServerBenchOptions {
  /** A server that runs already; by default one is started. */
  readonly url?: string;
  readonly token?: string;
  readonly repository: string;
  readonly cpus: readonly number[];
  readonly targetName?: string;
  readonly seed: number;
  readonly windowMs?: number;
  readonly repeats?: number;
}

/** Opens a server to measure on. @throws BonsaiError `load_failed`, `server_unreachable`, `invalid_argument` */
export async function openServerBench(context: Context, options: ServerBenchOptions): Promise<ServerBench> {
  const { clock, signal } = context;
  const { seed } = options;
  const own =
    options.url === undefined
      ? await startServerProcess({ repository: options.repository, cpus: options.cpus, initial: 'smallest' })
      : undefined;
  const server = profiledServer({ url: own?.httpUrl ?? options.url!, token: options.token, signal });
  const { url } = server;
  const windowMs = options.windowMs ?? CLOSED_LOOP_DEFAULTS.durationMs;
  const before = new Map<string, readonly number[]>();

  /** Remembers what a running server had ready, so that it can be put back. */
  const remember = async (task: string) => {
    if (own === undefined && !before.has(task)) before.set(task, await server.readyVersions(task));
  };
  const ready = async (task: string, versions: readonly number[]) => {
    await remember(task);
    try {
      await server.load(task, versions);
    } catch (thrown) {
      // A server that loads nothing on request, because all versions are there, can still be measured.
      const there = signal.aborted ? [] : await server.readyVersions(task);
      if (!versions.every((version) => there.includes(version))) throw thrown;
    }
  };

  let isWarm = own === undefined;
  const warm = async (subject: Subject) => {
    if (!isWarm) await warmServer(context, url, subject, windowMs, seed);
    isWarm = true;
  };
  const { repeats } = options;
  const alone: Windows = { windowMs, around: (_, measure) => measure() };
  const maximum = async (subject: Subject, windows: Windows): Promise<MeasuredThroughput> => {
    await warm(subject);
    const concurrency = await saturatingConcurrency(context, url, subject, windows, seed);
    return {
      concurrency,
      ...(await steadyThroughput(context, url, subject, { ...windows, concurrency, repeats }, seed)),
    };
  };

  try {
    const target = await server.target({ name: options.targetName, cpus: options.cpus.length });
    return {
      target,
      server,
      isOwn: own !== undefined,
      ready,
      throughput: (subject) => maximum(subject, alone),
      async unbatched(subject, { throughputRps, concurrency: saturating }) {
        const concurrency = UNBATCHED_PER_CPU * target.cpus;
        if (saturating <= concurrency) return throughputRps;
        await warm(subject);
        const windows = { ...alone, concurrency, repeats };
        return (await steadyThroughput(context, url, subject, windows, seed)).throughputRps;
      },
      async contested(subject, { contestant, maximumRps, share }) {
        const rps = share * maximumRps;
        const streams: StreamCount[] = [];
        const { answers: _, ...measured } = await maximum(subject, {
          windowMs: Math.max(windowMs, (CONTEST_REQUESTS_PER_WINDOW / rps) * 1000),
          around: async (longestMs, measure) => {
            const { measured, stream } = await whileContested(
              { url, contestant, rps, longestMs, seed, clock, signal },
              measure,
            );
            streams.push(stream);
            return measured;
          },
        });
        const { sent, answered, elapsedMs } = addStreams(streams);
        return {
          offeredRps: (sent * 1000) / elapsedMs,
          answeredRps: (answered * 1000) / elapsedMs,
          ...measured,
        };
      },
      latency: (subject, runs) => latencyOnServer(context, server, subject, runs),
      async load(task, version, others) {
        await remember(task);
        const clear = clearing(server, task, version, own !== undefined ? 'unload' : others[0]);
        if (clear === undefined) {
          await ready(task, [version]);
          return undefined;
        }
        const times: number[] = [];
        while (times.length < LOAD_REPEATS) {
          await clear();
          await new Promise((resolve) => setTimeout(resolve, LOAD_PAUSE_MS));
          const startMs = clock.nowMs();
          await server.load(task, [version]);
          times.push(clock.nowMs() - startMs);
        }
        return summarizeLatencies(times).median;
      },
      async close() {
        try {
          await putBack(context, { url, token: options.token }, before);
        } finally {
          await server.close();
          await own?.close();
        }
      },
    };
  } catch (thrown) {
    await server.close();
    await own?.close();
    throw thrown;
  }
}

/** How a version is taken out of memory; undefined where it cannot be without leaving its task unserved. */
function clearing(
  server: ProfiledServer,
  task: string,
  version: number,
  by: 'unload' | number | undefined,
): (() => Promise<void>) | undefined {
  if (by === undefined || by === version) return undefined;
  return () => (by === 'unload' ? server.unload(task) : server.load(task, [by]));
}

/** Also after an interruption, so with a signal of its own. */
async function putBack(
  context: Context,
  { url, token }: { readonly url: string; readonly token?: string },
  before: ReadonlyMap<string, readonly number[]>,
): Promise<void> {
  const server = profiledServer({ url, token, signal: new AbortController().signal });
  try {
    for (const [task, versions] of before) {
      const now = await server.readyVersions(task);
      if (versions.length > 0 && versions.join() !== now.join()) await server.load(task, versions);
    }
  } catch (thrown) {
    const wish = [...before].map(([task, versions]) => `${task}: ${versions.join(' and ') || 'none'}`);
    context.progress.say(
      `What was ready on ${url} before could not be put back (${wish.join('; ')}): ${messageOf(thrown)}`,
    );
  } finally {
    await server.close();
  }
}

/** How the windows of a measurement are made. */
interface Windows {
  readonly windowMs: number;
  /** Runs a measurement that takes at most so long, with what is to happen beside it. */
  readonly around: <T>(longestMs: number, measure: () => Promise<T>) => Promise<T>;
}

/** Has a fresh server answer until its code is compiled. */
async function warmServer(
  { clock, signal }: Context,
  url: string,
  { task: model, version, inputs }: Subject,
  durationMs: number,
  seed: number,
): Promise<void> {
  const [concurrency] = RISE_CONCURRENCIES;
  const options = {
    url,
    model,
    version: String(version),
    inputs,
    concurrency: concurrency!,
    clock,
    seed,
    signal,
  };
  let answers = 0;
  for (let window = 0; window < WARM_WINDOWS && answers < WARM_REQUESTS; window++) {
    try {
      answers += (await measureThroughput({ ...options, warmupMs: 0, durationMs })).answered;
    } catch (thrown) {
      if (signal.aborted) throw thrown;
      return; // What does not answer at all is told by the measurement.
    }
  }
}

/** Requests under way are doubled until throughput has not risen twice. @returns how many gave the most */
async function saturatingConcurrency(
  { clock, signal }: Context,
  url: string,
  subject: Subject,
  { windowMs, around }: Windows,
  seed: number,
): Promise<number> {
  const { task: model, version, inputs } = subject;
  const riseMs = Math.max(Math.min(RISE_WINDOW_MS, windowMs), RISE_WINDOW_RATIO * windowMs);
  const { concurrency } = await untilAnswered(
    nameOf(subject),
    (factor) => {
      const durationMs = factor * riseMs;
      const longestMs = (RISE_CONCURRENCIES.length + 1) * (RISE_WARMUP_MS + durationMs) + LAST_ANSWER_MS;
      return around(longestMs, () =>
        findMaximalThroughput({
          ...{ url, model, version: String(version), inputs, clock, seed, signal },
          repeats: 1,
          concurrencies: RISE_CONCURRENCIES,
          warmupMs: RISE_WARMUP_MS,
          durationMs,
        }),
      );
    },
    signal,
  );
  return concurrency;
}

/** Windows with so many requests under way are repeated until they agree. */
async function steadyThroughput(
  { clock, signal }: Context,
  url: string,
  subject: Subject,
  options: Windows & { readonly concurrency: number; readonly repeats?: number },
  seed: number,
): Promise<Omit<MeasuredThroughput, 'concurrency'>> {
  const { windowMs, around, concurrency, repeats = repeatDefaults.repeats } = options;
  const { task: model, version, inputs } = subject;
  let [count, right] = [0, 0];
  const measureOnce = async () => {
    const { throughputRps, answered, accuracy } = await untilAnswered(
      nameOf(subject),
      (factor) => {
        const durationMs = factor * windowMs;
        return around(CLOSED_LOOP_DEFAULTS.warmupMs + durationMs + LAST_ANSWER_MS, () =>
          measureThroughput({
            ...{ url, model, version: String(version), inputs, clock, seed, signal },
            concurrency,
            durationMs,
          }),
        );
      },
      signal,
    );
    count += answered;
    right += answered * accuracy;
    return throughputRps;
  };
  const { stable, ...throughputRps } = await repeatUntilStable(measureOnce, {
    repeats,
    maxRepeats: MAX_REPEATS_RATIO * repeats,
    signal,
  });
  return {
    throughputRps,
    ...(!stable && { noisy: true }),
    answers: { count, accuracy: right / count },
  };
}

function nameOf({ task, version }: Subject): string {
  return `version ${version} of "${task}"`;
}

/** As by default: a disturbance of a third of the time still leaves a calm window. */
const MAX_REPEATS_RATIO = repeatDefaults.maxRepeats / repeatDefaults.repeats;

/**
 * Latency where the engine runs elsewhere. The server's own count of computing, read after each inference, leaves the
 * network out; where it counts nothing, or somebody else's requests mix in, whole requests are what is left.
 */
async function latencyOnServer(
  context: Context,
  server: ProfiledServer,
  { task, version, inputs }: Subject,
  runs: number,
): Promise<Pick<Profile, 'latencySource'> & { latencyMs: LatencyMeasurement }> {
  const { clock, signal } = context;
  const client = new InferClient({
    url: server.url,
    model: task,
    version: String(version),
    inputs,
    connections: 1,
  });
  const computedMs: number[] = [];
  const requestMs: number[] = [];
  const warmup = latencyDefaults.warmup;
  try {
    let before = await server.computed(task, version);
    for (let run = 0; run < warmup + runs; run++) {
      signal.throwIfAborted();
      const startMs = clock.nowMs();
      const answer = await client.infer(run % inputs.labels.length, signal);
      const elapsedMs = clock.nowMs() - startMs;
      if (answer.outcome !== 'ok') {
        signal.throwIfAborted();
        throw new BonsaiError(
          'server_unreachable',
          `Inference ${run + 1} of version ${version} of "${task}" on ${server.url} was not answered: ${answer.reason}`,
        );
      }
      const after = before === undefined ? undefined : await server.computed(task, version);
      if (run >= warmup) {
        requestMs.push(elapsedMs);
        if (before !== undefined && after !== undefined && after.count === before.count + 1)
          computedMs.push((after.ns - before.ns) / NS_PER_MS);
      }
      before = after;
    }
  } finally {
    await client.close();
  }
  return computedMs.length >= runs / 2
    ? { latencyMs: summarizeLatencies(computedMs), latencySource: 'server' }
    : { latencyMs: summarizeLatencies(requestMs), latencySource: 'network' };
}

const NS_PER_MS = 1e6;

/** What porting needs of a bench. */
export interface ThroughputBench {
  measure(version: number): Promise<Throughput & Pick<Profile, 'noisy'>>;
  close(): Promise<void>;
}

/** A server on which one version of a task after the other is put and driven to its maximum. */
export async function openThroughputBench(
  context: Context,
  options: {
    readonly repository: string;
    readonly manifest: TaskManifest;
    readonly inputs: LabelledInputs;
    readonly cpus: readonly number[];
    readonly seed: number;
    readonly durationMs?: number;
  },
): Promise<ThroughputBench> {
  const { inputs, manifest, durationMs, ...rest } = options;
  const bench = await openServerBench(context, { ...rest, windowMs: durationMs });
  const { task } = manifest;
  return {
    async measure(version) {
      await bench.ready(task, [version]);
      const subject = { task, version, inputs };
      const { answers: _, ...measured } = await bench.throughput(subject);
      return { ...measured, unbatchedRps: await bench.unbatched(subject, measured) };
    },
    close: () => bench.close(),
  };
}
