import { summarize } from '../../base/statistics.ts';
import type { Profile, Target } from '../../repository/types.ts';
import type { Lab, LabTask } from '../lab.ts';
import { type Bench, openBench, type Subject } from './bench.ts';

/** Repetitions of throughput whose median is what policies plan with. */
const CALIBRATION_REPEATS = 3;

export interface CalibrationOptions {
  readonly target: Target;
  /** How many versions are done, and which one is next. */
  readonly onMeasuring: (done: number, task: string, version: number) => void;
}

/** Measures every version of the tasks on this machine; each is kept, whatever comes between. @returns profiles by task and version */
export async function calibrate(
  lab: Lab,
  tasks: readonly LabTask[],
  { target, onMeasuring }: CalibrationOptions,
): Promise<Record<string, Record<number, Profile>>> {
  const profiles: Record<string, Record<number, Profile>> = {};
  let bench: Bench | undefined;
  let done = 0;
  try {
    for (const { name, manifest, inputs } of tasks) {
      profiles[name] = {};
      for (const { version, profiles: before } of manifest.variants) {
        onMeasuring(done++, name, version);
        profiles[name][version] = await lab.part(`${name}-${version}`, async () => {
          bench ??= await openBench(lab, lab.cpus);
          const measured = await measure(bench, lab, { task: name, version, inputs });
          const known = before[target.fingerprint];
          return {
            target,
            measuredAt: new Date(lab.clock.epochMs()).toISOString(),
            ...measured,
            ...(known?.loadMs !== undefined && { loadMs: known.loadMs }),
            ...(known?.memoryBytes !== undefined && { memoryBytes: known.memoryBytes }),
          };
        });
      }
    }
  } finally {
    await bench?.close();
  }
  return profiles;
}

async function measure(
  bench: Bench,
  lab: Lab,
  subject: Subject,
): Promise<Pick<Profile, 'latencyMs' | 'throughputRps' | 'concurrency' | 'unbatchedRps'>> {
  const { task, version } = subject;
  const repeats = Math.min(CALIBRATION_REPEATS, lab.scale.repeats);
  await bench.ready(task, [version]);
  const { ratesRps, concurrency } = await bench.throughputs(subject, repeats);
  const unbatchedRps = summarize(await bench.unbatched(subject, repeats));
  const latencyMs = await lab.latency(task, version, Math.min(100, lab.scale.latencyRuns));
  return { latencyMs, throughputRps: summarize(ratesRps), concurrency, unbatchedRps };
}
