import { median } from '../../base/statistics.ts';
import { whileContested } from '../../load/contest.ts';
import type { Experiment } from '../experiment.ts';
import type { Lab, LabTask } from '../lab.ts';
import { benchMs, openBench, throughputsMs } from '../measuring/bench.ts';
import { measuredVersions } from '../measuring/versions.ts';
import { describeVariant } from '../wording.ts';
import { drawCoallocationProfile } from './draw.ts';

export interface CoallocationProfileResults {
  readonly task: string;
  /** The model whose requests come beside. */
  readonly contestant: { readonly task: string; readonly version: number; readonly maximumRps: number };
  /** Whether the client had a CPU of its own while the server had two. */
  readonly isClientApart: boolean;
  readonly versions: readonly {
    readonly version: number;
    readonly description: string;
    /** Every repetition, requests per second, by condition; two CPUs are absent where the machine has one. */
    readonly throughputsRps: Readonly<Partial<Record<ProfileCondition, readonly number[]>>>;
  }[];
}

export type ProfileCondition = 'oneCpu' | 'twoCpus' | 'contested25' | 'contested50';

const SHARES = { contested25: 0.25, contested50: 0.5 } as const;

/** Table 5.1: a second CPU does not double, and a neighbour takes more than its share. */
export const coallocationProfile: Experiment<CoallocationProfileResults> = {
  name: 'coallocation-profile',
  thesis: 'Table 5.1, Fig. 5.6a',
  question: 'What becomes of maximal throughput with a second CPU, and beside another model?',
  estimateMs(lab) {
    const [first] = lab.tasks;
    if (first === undefined) return 0;
    const versionMs = throughputsMs(lab, lab.scale.repeats) + 300;
    return 4 * (benchMs(lab) + measuredVersions(lab, first).length * versionMs);
  },
  async run(lab) {
    const [first, second] = lab.tasks;
    const other = second ?? first!;
    const variants = measuredVersions(lab, other);
    // As in the thesis (BeeAnts version 2): not the slowest, nor one whose requests are all overhead.
    const contestantVariant = variants[Math.min(1, variants.length - 1)]!;
    const { version } = contestantVariant;
    // Right before: a profile of another hour would make the shares other ones.
    const maximumRps = await lab.part('contestant', () => maximumAlone(lab, other, version));
    const contestant = { task: other.name, version, maximumRps };
    const oneCpu = await lab.part('1 CPU', () => onCpus(lab, first!, lab.cpus.slice(0, 1)));
    const contested25 = await lab.part('contested 25 %', () =>
      beside(lab, first!, other, contestant, SHARES.contested25),
    );
    const contested50 = await lab.part('contested 50 %', () =>
      beside(lab, first!, other, contestant, SHARES.contested50),
    );
    const pair = secondCpu(lab);
    const twoCpus =
      pair === undefined ? undefined : await lab.part('2 CPUs', () => onCpus(lab, first!, pair));
    return {
      task: first!.name,
      contestant,
      isClientApart: pair !== undefined && !pair.some((cpu) => lab.clientCpus.includes(cpu)),
      versions: measuredVersions(lab, first!).map((variant) => ({
        version: variant.version,
        description: describeVariant(variant),
        throughputsRps: {
          oneCpu: oneCpu[variant.version]!,
          contested25: contested25[variant.version]!,
          contested50: contested50[variant.version]!,
          ...(twoCpus !== undefined && { twoCpus: twoCpus[variant.version]! }),
        },
      })),
    };
  },
  draw: drawCoallocationProfile,
};

/** Two CPUs for the server: if it can be, not the client's. */
function secondCpu({ cpus, clientCpus, machineCpus }: Lab): number[] | undefined {
  const first = cpus[0]!;
  const others = Array.from({ length: machineCpus }, (_, cpu) => cpu).filter((cpu) => cpu !== first);
  const second = others.find((cpu) => !clientCpus.includes(cpu)) ?? others[0];
  return second === undefined ? undefined : [first, second];
}

async function maximumAlone(lab: Lab, { name, inputs }: LabTask, version: number): Promise<number> {
  const bench = await openBench(lab, lab.cpus.slice(0, 1));
  try {
    await bench.ready(name, [version]);
    const repeats = Math.min(3, lab.scale.repeats);
    return median((await bench.throughputs({ task: name, version, inputs }, repeats)).ratesRps);
  } finally {
    await bench.close();
  }
}

async function onCpus(lab: Lab, task: LabTask, cpus: readonly number[]): Promise<Record<number, number[]>> {
  const bench = await openBench(lab, cpus);
  const found: Record<number, number[]> = {};
  try {
    for (const { version } of measuredVersions(lab, task)) {
      lab.say(`version ${version} on ${cpus.length} CPU${cpus.length > 1 ? 's' : ''}`);
      await bench.ready(task.name, [version]);
      const subject = { task: task.name, version, inputs: task.inputs };
      found[version] = (await bench.throughputs(subject, lab.scale.repeats)).ratesRps;
    }
  } finally {
    await bench.close();
  }
  return found;
}

async function beside(
  lab: Lab,
  task: LabTask,
  other: LabTask,
  contestant: CoallocationProfileResults['contestant'],
  share: number,
): Promise<Record<number, number[]>> {
  const bench = await openBench(lab, lab.cpus.slice(0, 1));
  const found: Record<number, number[]> = {};
  const { clock, signal, seed, scale } = lab;
  try {
    for (const { version } of measuredVersions(lab, task)) {
      lab.say(`version ${version} beside ${100 * share} % of ${contestant.task}`);
      const isSame = other.name === task.name;
      await bench.ready(task.name, isSame ? [...new Set([version, contestant.version])] : [version]);
      if (!isSame) await bench.ready(other.name, [contestant.version]);
      const { measured } = await whileContested(
        {
          url: bench.server.url,
          contestant: { ...contestant, inputs: other.inputs },
          rps: share * contestant.maximumRps,
          longestMs: 2 * throughputsMs(lab, scale.repeats) + CONTEST_MARGIN_MS,
          seed,
          clock,
          signal,
        },
        () => bench.throughputs({ task: task.name, version, inputs: task.inputs }, scale.repeats),
      );
      found[version] = measured.ratesRps;
    }
  } finally {
    await bench.close();
  }
  return found;
}

/** The stream goes on for longer than any measurement takes, warm-up and slow machines included. */
const CONTEST_MARGIN_MS = 60_000;
