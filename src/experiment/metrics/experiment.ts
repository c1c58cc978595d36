import type { Box } from '../../report/box-figure.ts';
import { paretoOf } from '../../repository/frontier.ts';
import { COST_METRICS, type CostMetric, profileOf, type Variant } from '../../repository/types.ts';
import type { Experiment } from '../experiment.ts';
import type { Lab, LabTask } from '../lab.ts';
import { benchMs, openBench, throughputsMs } from '../measuring/bench.ts';
import { boxOf } from '../measuring/boxes.ts';
import { atShares, openUnboundedBench, shareMs } from '../measuring/shares.ts';
import { maximumOf, measuredVersions } from '../measuring/versions.ts';
import { describeVariant } from '../wording.ts';
import { drawMetrics } from './draw.ts';
import { CPU_SHARES } from './thesis.ts';

export interface MetricsResults {
  /** The first has everything, the second the CPU alone (Figure 5.9). */
  readonly tasks: readonly MetricsTask[];
  /** All versions of the first by one profile each, also those that are not measured again here. */
  readonly family: readonly FamilyMember[];
  /** Whether those profiles are what the families came with, of whichever machine; else they were made on this one. */
  readonly isFamilyAsItCame?: boolean;
}

export interface FamilyMember {
  readonly version: number;
  readonly description: string;
  readonly backbone: string;
  readonly isPruned: boolean;
  readonly accuracy: number;
  readonly throughputRps: number;
}

export interface MetricsTask {
  readonly task: string;
  readonly versions: readonly MetricsVersion[];
  readonly cpu: readonly {
    readonly version: number;
    readonly maximumRps: number;
    readonly shares: readonly { readonly share: number; readonly cpuUtilization: number | null }[];
  }[];
}

export interface MetricsVersion {
  readonly version: number;
  readonly description: string;
  readonly backbone: string;
  readonly isPruned: boolean;
  /** Digest of the network that it was derived from. */
  readonly digest: string;
  readonly parent?: string;
  readonly accuracy: number;
  readonly macs: number;
  /** Requests per second, and every repetition. */
  readonly throughput: Box;
  readonly throughputsRps: readonly number[];
  /** Of single inferences by ONNX Runtime: the mean of each repetition, ms. */
  readonly latency: Box;
  readonly latenciesMs: readonly number[];
  /** By which metrics it is on the frontier. */
  readonly frontiers: readonly CostMetric[];
}

/** Repetitions of latency, each a mean of many: the thesis' plot shows a spread of means. */
const LATENCY_REPEATS_AT_MOST = 20;

/** Figures 5.6 to 5.9: which metric tells what a version costs? */
export const metrics: Experiment<MetricsResults> = {
  name: 'metrics',
  thesis: 'Fig. 5.6 to 5.9',
  question: 'How stable are the metrics of cost, and does the frontier by each hold in throughput?',
  estimateMs(lab) {
    const [first, second] = lab.tasks;
    if (first === undefined) return 0;
    const { repeats, latencyRuns } = lab.scale;
    const count = measuredVersions(lab, first).length;
    const looked = count + (second === undefined ? 0 : measuredVersions(lab, second).length);
    // A single inference takes a millisecond or two, and its worker as long as some hundred of them to start.
    const latencyMs = repeats * (2 * latencyRuns + 200);
    const throughputMs = throughputsMs(lab, repeats);
    return count * (throughputMs + latencyMs) + 3 * benchMs(lab) + looked * CPU_SHARES.length * shareMs(lab);
  },
  async run(lab) {
    const [first, second] = lab.tasks;
    const versions = await lab.part('throughput and latency', () => repeated(lab, first!));
    const tasks: MetricsTask[] = [
      { task: first!.name, versions, cpu: await lab.part(`CPU ${first!.name}`, () => cpuOf(lab, first!)) },
    ];
    if (second !== undefined)
      tasks.push({
        task: second.name,
        versions: [],
        cpu: await lab.part(`CPU ${second.name}`, () => cpuOf(lab, second)),
      });
    return { tasks, ...familyOf(lab, first!) };
  },
  draw: drawMetrics,
};

/** Where not all versions were profiled on this machine, the profiles that they came with: speeds of two machines do not compare. */
export function familyOf(
  { families }: Pick<Lab, 'families'>,
  { source, manifest }: Pick<LabTask, 'source' | 'manifest'>,
): Pick<MetricsResults, 'family' | 'isFamilyAsItCame'> {
  const came = families.find(({ task }) => task === source)!;
  const isFamilyAsItCame = came.variants.length > manifest.variants.length;
  const { variants } = isFamilyAsItCame ? came : manifest;
  return {
    family: variants.filter((variant) => profileOf(variant) !== undefined).map(memberOf),
    isFamilyAsItCame,
  };
}

function memberOf(variant: Variant): FamilyMember {
  const { version, lineage, accuracy } = variant;
  return {
    version,
    description: describeVariant(variant),
    backbone: lineage.backbone?.split(':')[0] ?? 'network',
    isPruned: lineage.pruning !== undefined,
    accuracy: accuracy.test,
    throughputRps: maximumOf(variant),
  };
}

async function repeated(lab: Lab, task: LabTask): Promise<MetricsVersion[]> {
  const { repeats, latencyRuns } = lab.scale;
  const measured: Omit<MetricsVersion, 'frontiers'>[] = [];
  const bench = await openBench(lab, lab.cpus);
  try {
    for (const variant of measuredVersions(lab, task)) {
      const { version, lineage, accuracy, macs, digest } = variant;
      lab.say(`throughput of version ${version}`);
      await bench.ready(task.name, [version]);
      const { ratesRps } = await bench.throughputs(
        { task: task.name, version, inputs: task.inputs },
        repeats,
      );
      lab.say(`latency of version ${version}`);
      const latenciesMs: number[] = [];
      for (let i = 0; i < Math.min(repeats, LATENCY_REPEATS_AT_MOST); i++)
        latenciesMs.push((await lab.latency(task.name, version, latencyRuns)).mean);
      measured.push({
        version,
        description: describeVariant(variant),
        backbone: lineage.backbone?.split(':')[0] ?? 'network',
        isPruned: lineage.pruning !== undefined,
        digest,
        ...(lineage.parent !== undefined && { parent: lineage.parent }),
        accuracy: accuracy.test,
        macs,
        throughput: boxOf(ratesRps),
        throughputsRps: ratesRps,
        latency: boxOf(latenciesMs),
        latenciesMs,
      });
    }
  } finally {
    await bench.close();
  }
  return measured.map((each) => ({
    ...each,
    frontiers: COST_METRICS.filter((metric) =>
      paretoOf(
        measured.map((other) => ({ ...other, accuracy: { test: other.accuracy, testCount: 1 } })),
        (other) => costOf(other, metric),
      ).some(({ version }) => version === each.version),
    ),
  }));
}

/** What a version costs by a metric, as measured here. */
export function costOf(
  { macs, latency, throughput }: Pick<MetricsVersion, 'macs' | 'latency' | 'throughput'>,
  metric: CostMetric,
): number {
  if (metric === 'flops') return macs;
  return metric === 'latency' ? latency.median / 1000 : 1 / throughput.median;
}

async function cpuOf(lab: Lab, task: LabTask): Promise<MetricsTask['cpu']> {
  const bench = await openUnboundedBench(lab);
  const found: MetricsTask['cpu'][number][] = [];
  try {
    for (const variant of measuredVersions(lab, task)) {
      const { version } = variant;
      const maximumRps = maximumOf(variant);
      lab.say(`CPU of version ${version} of ${task.name}`);
      await bench.ready(task.name, [version]);
      await bench.warm({ task: task.name, version, inputs: task.inputs });
      const looks = await atShares(lab, bench.server, { task, version, maximumRps }, CPU_SHARES);
      found.push({
        version,
        maximumRps,
        shares: looks.map(({ share, cpuUtilization }) => ({ share, cpuUtilization })),
      });
    }
  } finally {
    await bench.close();
  }
  return found;
}
