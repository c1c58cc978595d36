import { mean } from '../../base/statistics.ts';
import { type DemandProfile, demandAt, durationMsOf } from '../../load/arrivals.ts';
import { withTrend } from '../../load/trend.ts';
import { scaledDemand } from '../../simulate/workload.ts';
import type { Lab } from '../lab.ts';
import { burstsOf, knownTrace, THESIS_TRACE, windowsOf } from '../traces.ts';

/** The largest swing of the macro trend, over the mean. */
const TREND_SWING = 0.5;

/**
 * Volatile demand for each task, as the thesis makes it (section 5.2.2): a window of the Twitter stream each, a macro trend of eight sines, a
 * warm-up in which it climbs. Without the recorded stream, bursts. Means are those behind the warm-up.
 */
export async function volatileDemand(
  lab: Pick<Lab, 'traces'>,
  options: {
    readonly meansRps: readonly number[];
    readonly durationMs: number;
    readonly warmUpMs: number;
    readonly seed: number;
    readonly swing?: number;
  },
): Promise<DemandProfile[]> {
  const { meansRps, durationMs, warmUpMs, seed, swing = TREND_SWING } = options;
  const lengthMs = durationMs + warmUpMs;
  const trace = lab.traces === undefined ? undefined : await knownTrace(lab.traces, THESIS_TRACE);
  const plain =
    trace === undefined ? burstsOf(meansRps, lengthMs, seed) : windowsOf(trace, meansRps, lengthMs);
  return plain.map((profile, k) => {
    const moved = withTrend(profile, { seed: seed * 10 + k, swing, warmUpMs });
    // The window behind the warm-up may be busier than the whole: what counts is to have the mean that was asked for.
    return scaledDemand(moved, meansRps[k]! / meanBehind(moved, warmUpMs));
  });
}

/** In requests per second, between the warm-up and the end. */
function meanBehind(profile: DemandProfile, warmUpMs: number): number {
  const seconds: number[] = [];
  for (let atMs = warmUpMs; atMs < durationMsOf(profile); atMs += 1000) seconds.push(demandAt(profile, atMs));
  return mean(seconds);
}
