import { summarize } from '../../base/statistics.ts';
import type { Profile, Target } from '../../repository/types.ts';
import type { Lab, LabTask } from '../lab.ts';
import { openBench } from './bench.ts';

/** Repetitions of throughput whose median is what policies plan with. */
const CALIBRATION_REPEATS = 3;

/** Measures every version of the tasks on this machine. @returns profiles by task and version */
export async function calibrate(
  lab: Lab,
  tasks: readonly LabTask[],
  target: Target,
): Promise<Record<string, Record<number, Profile>>> {
  const profiles: Record<string, Record<number, Profile>> = {};
  const bench = await openBench(lab, lab.cpus);
  try {
    for (const { name, manifest, inputs } of tasks) {
      profiles[name] = {};
      for (const { version, profiles: before } of manifest.variants) {
        lab.say(`profiling version ${version} of ${name}`);
        await bench.ready(name, [version]);
        const subject = { task: name, version, inputs };
        const throughputRps = summarize(await bench.throughputs(subject, CALIBRATION_REPEATS));
        const unbatchedRps = summarize(await bench.unbatched(subject, CALIBRATION_REPEATS));
        const known = before[target.fingerprint];
        const latencyMs = await lab.latency(name, version, Math.min(100, lab.scale.latencyRuns));
        profiles[name][version] = {
          target,
          measuredAt: new Date(lab.clock.epochMs()).toISOString(),
          latencyMs,
          throughputRps,
          concurrency: 4,
          unbatchedRps,
          ...(known?.loadMs !== undefined && { loadMs: known.loadMs }),
          ...(known?.memoryBytes !== undefined && { memoryBytes: known.memoryBytes }),
        };
      }
    }
  } finally {
    await bench.close();
  }
  return profiles;
}
