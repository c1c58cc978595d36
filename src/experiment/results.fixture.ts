import type { RequestRecord } from '../load/records.ts';
import type { Profile, TaskManifest } from '../repository/types.ts';
import type { CoallocationResults } from './coallocation/experiment.ts';
import type { CoallocationProfileResults } from './coallocation-profile/experiment.ts';
import type { ComplexityResults } from './complexity/experiment.ts';
import type { DistributedResults } from './distributed/experiment.ts';
import { type ExplodingQueueResults, queueRunOf } from './exploding-queue/experiment.ts';
import { QUEUE_SHARES } from './exploding-queue/thesis.ts';
import type { InfaasResults } from './infaas/experiment.ts';
import type { LeagueResults } from './league/experiment.ts';
import { type LiveRun, liveRunOf } from './live/live-run.ts';
import { boxOf } from './measuring/boxes.ts';
import type { MetricsResults } from './metrics/experiment.ts';
import { CPU_SHARES } from './metrics/thesis.ts';
import type { SingleTaskResults } from './single-task/experiment.ts';

const PROFILE: Profile = {
  target: {
    fingerprint: 'f',
    cpuModel: 'none',
    architecture: 'x64',
    cpus: 1,
    runtime: 'onnxruntime',
    runtimeVersion: '1',
  },
  measuredAt: '2026-01-01T00:00:00.000Z',
  latencyMs: { count: 1, mean: 1, median: 1, min: 1, max: 1 },
  throughputRps: { count: 1, mean: 100, median: 100, min: 100, max: 100 },
  concurrency: 1,
};

/** A family with these accuracies; each version answers twice as much as the one before. */
export function makeManifest(task: string, accuracies: readonly number[]): TaskManifest {
  return {
    schemaVersion: 1,
    task,
    inputs: [{ name: 'image', dtype: 'float32', shape: [-1, 4] }],
    outputs: [{ name: 'logits', dtype: 'float32', shape: [-1, 2] }],
    variants: accuracies.map((accuracy, i) => {
      const median = 100 * 2 ** i;
      return {
        version: i + 1,
        digest: String(i).repeat(64),
        sizeBytes: 1,
        accuracy: { test: accuracy, testCount: 100 },
        macs: 1_000_000 / 2 ** i,
        parameters: 10,
        lineage: {},
        profiles: { f: { ...PROFILE, throughputRps: { ...PROFILE.throughputRps, median } } },
      };
    }),
  };
}

/** A run of tasks in which each other request is answered by the smaller version, and each tenth is late. */
export function makeLiveRun(name: string, tasks: readonly string[], servers: readonly string[]): LiveRun {
  const records = Array.from(
    { length: 200 },
    (_, i): RequestRecord => ({
      dueMs: 50 * i,
      sentMs: 50 * i,
      latencyMs: i % 10 === 0 ? 700 : 5 + (i % 7),
      outcome: i === 3 ? 'refused' : 'ok',
      status: i === 3 ? 429 : 200,
      ...(i !== 3 && { version: String(1 + (i % 2)), correct: true }),
    }),
  );
  const run = liveRunOf(
    {
      records: tasks.map(() => records),
      cpu: servers.map(() => [1, 2, 3].map((s) => ({ atMs: 1000 * s, utilization: 0.2 * s }))),
    },
    {
      name,
      sloMs: 400,
      durationMs: 10_000,
      countedFromMs: 0,
      manifests: tasks.map((task) => makeManifest(task, [0.9, 0.8])),
      isLabelled: tasks.map(() => true),
      serverNames: servers,
    },
  );
  return { ...run, loads: 2 };
}

const TASKS = ['bees', 'digits', 'things'] as const;
const STEPS = [
  { atMs: 0, rps: 1 },
  { atMs: 5000, rps: 3 },
] as const;

const complexity: ComplexityResults = {
  tasks: [
    {
      task: 'digits',
      variants: [0.99, 0.98, 0.9].map((accuracy, i) => ({
        version: i + 1,
        description: `resnet, l1 0.${i}`,
        backbone: i === 2 ? 'densenet' : 'resnet',
        accuracy,
        macs: 1e6 / 4 ** i,
        parameters: 100,
        isPruned: i > 0,
        isQuantized: false,
        isOnFrontier: true,
      })),
    },
  ],
};

const metrics: MetricsResults = {
  family: [0, 1, 2].map((i) => ({
    version: i + 1,
    description: 'resnet',
    backbone: 'resnet',
    isPruned: i > 0,
    // The second loses less than the thesis' 1.78 points, the third more.
    accuracy: 0.9 - 0.01 * i,
    throughputRps: 100 * (i + 1),
  })),
  tasks: ['digits', 'bees'].map((task, k) => ({
    task,
    versions:
      k > 0
        ? []
        : [0, 1, 2].map((i) => ({
            version: 3 - i,
            description: 'resnet',
            backbone: 'resnet',
            isPruned: i > 0,
            digest: String(i),
            accuracy: 0.9 - 0.008 * i,
            macs: 1e6 / (i + 1),
            throughput: boxOf([99, 100, 101].map((rate) => rate * 2 ** i)),
            throughputsRps: [99, 100, 101].map((rate) => rate * 2 ** i),
            latency: boxOf([9, 10, 12].map((ms) => ms / 2 ** i)),
            latenciesMs: [9, 10, 12].map((ms) => ms / 2 ** i),
            frontiers: ['flops', 'latency', 'inverseThroughput'],
          })),
    cpu: [1, 2].map((version) => ({
      version,
      maximumRps: 100,
      shares: CPU_SHARES.map((share) => ({ share, cpuUtilization: share === 1 ? null : share + 0.02 })),
    })),
  })),
};

const coallocationProfile: CoallocationProfileResults = {
  task: 'digits',
  contestant: { task: 'bees', version: 2, maximumRps: 50 },
  isClientApart: false,
  versions: [1, 2].map((version) => ({
    version,
    description: 'resnet',
    throughputsRps: {
      oneCpu: [99, 100, 101],
      twoCpus: [200, 210, 190],
      contested25: [70, 71, 72],
      contested50: [45, 46, 47],
    },
  })),
};

const explodingQueue: ExplodingQueueResults = {
  task: 'digits',
  durationMs: 5000,
  versions: [1, 2].map((version) => ({
    version,
    description: 'resnet',
    maximumRps: 100,
    runs: QUEUE_SHARES.map((share) =>
      queueRunOf(
        share,
        100 * share,
        Array.from({ length: 500 }, (_, i) => ({
          dueMs: 10 * i,
          latencyMs: 10 + Math.max(0, share - 1) * 10 * i,
          outcome: 'ok' as const,
        })),
        5000,
      ),
    ),
  })),
};

const infaas: InfaasResults = {
  task: 'digits',
  version: 2,
  stacks: (['per-model', 'one-server'] as const).map((kind, i) => ({
    kind,
    coldStart: makeLiveRun(`${kind}, cold start`, ['digits'], [kind]),
    coldMs: 1500,
    growth: makeLiveRun(`${kind}, growth`, ['digits'], [kind]),
    steps: STEPS,
    throughputsRps: [100 * (i + 1), 101 * (i + 1)],
  })),
};

const singleTask: SingleTaskResults = {
  task: 'digits',
  chain: [
    { version: 1, accuracy: 0.9, throughputRps: 100 },
    { version: 2, accuracy: 0.8, throughputRps: 200 },
  ],
  workloads: (['linear-up', 'exponential', 'linear-down', 'trace'] as const).map((kind) => ({
    kind,
    ...(kind !== 'trace' && { steps: STEPS }),
    runs: ['static:largest', 'trivial', 'bonsai'].map((policy) =>
      makeLiveRun(`${kind}: ${policy}`, ['digits'], ['server']),
    ),
  })),
};

const coallocation: CoallocationResults = {
  iterations: [
    {
      seed: 1,
      meansRps: [1, 2, 3],
      runs: ['static:largest', 'trivial', 'bonsai'].map((policy) => makeLiveRun(policy, TASKS, ['server'])),
      expected: [{ name: 'oracle', normalisedAccuracy: 0.95, violationRatio: 0, cpuUtilization: 0.9 }],
    },
  ],
};

const distributed: DistributedResults = {
  hasOwnCpus: false,
  servers: ['server-1', 'server-2', 'server-3'],
  loads: (['low', 'high'] as const).map((kind) => ({
    kind,
    meansRps: [1, 2, 3],
    runs: ['trivial', 'plan'].map((policy) => ({
      ...makeLiveRun(`${kind} load: ${policy}`, TASKS, ['server-1', 'server-2', 'server-3']),
      changes: 4,
    })),
  })),
};

const interval = (mean: number) => ({ mean, halfWidth: 0.01 });
const league: LeagueResults = {
  tasks: TASKS,
  slowness: 77,
  lengthMs: 60_000,
  seeds: [1, 2],
  windows: ['Twitter 2018-04', 'made-up bursts'].map((name) => ({
    name,
    meansRps: [1, 2, 3],
    rows: ['trivial', 'bonsai'].map((policy, i) => ({
      name: policy,
      meaning: policy,
      intervals: {
        violationRatio: interval(0.01),
        meanAccuracy: interval(0.9 + 0.05 * i),
        effectiveAccuracy: interval(0.9 + 0.05 * i),
        cpuUtilization: interval(0.8),
        p99Ms: interval(100),
        loadsPerMinute: interval(2),
      },
    })),
  })),
  missing: ['Azure Functions 2019'],
};

/** Results of every experiment, by name, as small as can be drawn. */
export const RESULTS: Readonly<Record<string, unknown>> = {
  complexity,
  metrics,
  'coallocation-profile': coallocationProfile,
  'exploding-queue': explodingQueue,
  infaas,
  'single-task': singleTask,
  coallocation,
  distributed,
  league,
};
