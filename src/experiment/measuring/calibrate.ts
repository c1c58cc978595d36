import { summarize } from '../../base/statistics.ts';
import type { Measurement, Profile, Target } from '../../repository/types.ts';
import type { Lab, LabTask } from '../lab.ts';
import { type Bench, openBench, type Subject } from './bench.ts';

/** What one round finds of a version. */
interface Sample {
  readonly throughputRps: number;
  readonly concurrency: number;
  readonly unbatchedRps: number;
  /** Of the first round. */
  readonly latencyMs?: Measurement;
}

export interface CalibrationOptions {
  readonly target: Target;
  /** How many of `calibrationSteps` are done, and which version is next. */
  readonly onMeasuring: (done: number, task: string, version: number) => void;
}

export function calibrationSteps({ scale }: Pick<Lab, 'scale'>, tasks: readonly LabTask[]): number {
  return scale.profileRounds * tasks.reduce((sum, { manifest }) => sum + manifest.variants.length, 0);
}

/**
 * Measures every version of the tasks on this machine, in rounds: a machine that is slow for a minute then slows a sample of each version, not
 * all of one. Each sample is kept, whatever comes between. @returns profiles by task and version
 */
export async function calibrate(
  lab: Lab,
  tasks: readonly LabTask[],
  { target, onMeasuring }: CalibrationOptions,
): Promise<Record<string, Record<number, Profile>>> {
  const samples = tasks.map(({ manifest }) => manifest.variants.map((): Sample[] => []));
  let bench: Bench | undefined;
  let done = 0;
  try {
    for (let round = 0; round < lab.scale.profileRounds; round++) {
      for (const [k, { name, manifest, inputs }] of tasks.entries()) {
        for (const [i, { version }] of manifest.variants.entries()) {
          onMeasuring(done++, name, version);
          const own = samples[k]![i]!;
          own.push(
            await lab.part(`${name}-${version}-round-${round}`, async () => {
              bench ??= await openBench(lab, lab.cpus);
              return measure(bench, lab, { task: name, version, inputs }, own[0]?.concurrency);
            }),
          );
        }
      }
    }
  } finally {
    await bench?.close();
  }
  const measuredAt = new Date(lab.clock.epochMs()).toISOString();
  return Object.fromEntries(
    tasks.map(({ name, manifest }, k) => [
      name,
      Object.fromEntries(
        manifest.variants.map(({ version, profiles }, i) => [
          version,
          { target, measuredAt, ...profileOf(samples[k]![i]!), ...keptOf(profiles[target.fingerprint]) },
        ]),
      ),
    ]),
  );
}

/** @param concurrency at which the maximum was found in the first round; undefined: this is the first */
async function measure(
  bench: Bench,
  lab: Lab,
  subject: Subject,
  concurrency: number | undefined,
): Promise<Sample> {
  const { task, version } = subject;
  await bench.ready(task, [version]);
  const found = await bench.throughputs(subject, 1, concurrency);
  const [unbatchedRps] = await bench.unbatched(subject, 1);
  const sample = {
    throughputRps: found.ratesRps[0]!,
    concurrency: found.concurrency,
    unbatchedRps: unbatchedRps!,
  };
  if (concurrency !== undefined) return sample;
  return { ...sample, latencyMs: await lab.latency(task, version, Math.min(100, lab.scale.latencyRuns)) };
}

function profileOf(
  samples: readonly Sample[],
): Pick<Profile, 'latencyMs' | 'throughputRps' | 'concurrency' | 'unbatchedRps'> {
  const [{ latencyMs, concurrency }] = samples as [Sample];
  return {
    latencyMs: latencyMs!,
    throughputRps: summarize(samples.map(({ throughputRps }) => throughputRps)),
    concurrency,
    unbatchedRps: summarize(samples.map(({ unbatchedRps }) => unbatchedRps)),
  };
}

/** What is not measured here. */
function keptOf(before: Profile | undefined): Pick<Profile, 'loadMs' | 'memoryBytes'> {
  return {
    ...(before?.loadMs !== undefined && { loadMs: before.loadMs }),
    ...(before?.memoryBytes !== undefined && { memoryBytes: before.memoryBytes }),
  };
}
