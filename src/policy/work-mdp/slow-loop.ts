import { type Profile, profileOf, requestCpuMs, type Variant } from '../../repository/types.ts';
import type { Action, Decision, PolicyState, TaskState } from '../policy.ts';
import { type BelievedTask, type BelievedVersion, type IndicesOf, residentIndices } from './believed-task.ts';
import { type DemandMemory, forecastRps, learnDemand, meanSince } from './forecast.ts';
import type { PlannedTask, Surge, WorkPlan } from './plan.ts';
import { floorShare, priceFloorDefaults, withPriceFloor } from './price-floor.ts';
import { chooseResidents, type ResidencyMemory } from './residency.ts';
import {
  EMPTY_SERVICE_MEMORY,
  learnServiceTimes,
  type ServiceMemory,
  serviceRatioOf,
} from './service-times.ts';
import type { WorkProblem, WorkSolver, WorkTask } from './value-function.ts';

/** Times in ms, rewards in normalised accuracy. */
export const workMdpDefaults = {
  ...priceFloorDefaults,
  periodMs: 1_000,
  /** Margin before each deadline that the plan keeps. */
  guardMs: 20,
  /** Price of a request that is late or shed: above any accuracy, so that none is given up for another's. */
  lateCost: 1.5,
  /** Deviations added to the forecast. */
  caution: 0,
  /** The same for a while after violations: more of a second's requests than the ratio were late, shed or failed. */
  troubledCaution: 1.5,
  troubledViolationRatio: 0.02,
  /**
   * Nothing loads for a while after violations, or after the queue took longer than this share of the SLO even at
   * smallest versions. Such a queue alone is no reason for caution: it is planned exactly, request by request.
   */
  troubledDrainShare: 0.5,
  troubledMs: 10_000,
  /** Grid cells for the tightest SLO. */
  cellsPerSlo: 32,
  /** The grid reaches so far beyond the longest SLO. */
  gridReach: 1.25,
  maxCells: 400,
  /** Evaluations of choices in one decision: from the values of the second before two or three do. */
  rounds: 10,
  tolerance: 1e-4,
  /** Plans are also made for so many levels of more demand, up to this many times the forecast, or to what the fastest versions can serve. */
  surges: 4,
  surgeRatio: 4,
  /** Work whose uncertainty grows as that of jobs of this share of the SLO. */
  typicalServiceShare: 0.1,
  /** Administrators are told where inferences take more than so many times their profiles' time, as the thesis has it. */
  noticeRatio: 1.2,
  /** And only where they have done so for a while: a pause of the machine is over by then. */
  noticeAfterMs: 10_000,
} as const;

export type WorkMdpConstants = { readonly [K in keyof typeof workMdpDefaults]: number };

/** What the policy remembers between decisions. Plain data. */
export interface WorkMdpMemory {
  readonly demand: Readonly<Record<string, DemandMemory>>;
  readonly service: ServiceMemory;
  readonly values: readonly number[];
  readonly stepMs: number;
  readonly residency?: ResidencyMemory;
  /** Nothing loads until then. */
  readonly troubledUntilMs?: number;
  /** More than the forecast is planned for until then. */
  readonly cautiousUntilMs?: number;
  readonly floorShare?: number;
  /** Since when inferences have taken longer than profiles explain. */
  readonly slowSinceMs?: number;
}

/** One decision of the slow loop: learn, forecast, solve, choose what is resident. */
export function decide(
  state: PolicyState,
  constants: WorkMdpConstants,
  solver: WorkSolver,
  variants: VariantCache,
): Decision {
  const before = memoryOf(state.memory);
  const service = learnServiceTimes(before?.service ?? EMPTY_SERVICE_MEMORY, state.tasks);
  const slots = state.slots ?? Math.max(1, Math.floor(state.cpuBudget));
  const server = { slots, cpuBudget: state.cpuBudget, variants };
  const ratio = profileRatio(state.tasks, service, server);
  const slowSinceMs = ratio > constants.noticeRatio ? (before?.slowSinceMs ?? state.nowMs) : undefined;
  const isToBeTold = slowSinceMs !== undefined && state.nowMs - slowSinceMs >= constants.noticeAfterMs;
  const families = state.tasks.map((task) => believedVersions(task, service, server));
  const { troubledUntilMs, cautiousUntilMs } = troubleOf(state, constants, families, slots, before);
  const isTroubled = troubledUntilMs !== undefined;
  const isCautious = cautiousUntilMs !== undefined;
  const caution = isCautious ? Math.max(constants.caution, constants.troubledCaution) : constants.caution;

  const demand: Record<string, DemandMemory> = {};
  const tasks: BelievedTask[] = [];
  for (const [k, task] of state.tasks.entries()) {
    const learned = learnDemand(before?.demand[task.task], task.demand);
    if (learned !== undefined) demand[task.task] = learned;
    tasks.push({
      state: task,
      demandRps: forecastRps(learned, task.demand, { nowMs: state.nowMs, caution }) / slots,
      peakRps: peakRps(task, state.nowMs) / slots,
      versions: families[k]!,
    });
  }

  const problem = problemOf(tasks, constants, service, residentIndices);
  const initial = before?.stepMs === problem.stepMs ? before.values : undefined;
  const solved = solver.solve(problem, constants, initial);
  const values = Array.from(solved.values);
  const residency = chooseResidents({
    nowMs: state.nowMs,
    tasks,
    problem,
    values,
    solver,
    memory: before?.residency,
    isTroubled,
    problemOf: (rps, indicesOf = residentIndices) => {
      const asked = tasks.map((task, k) => ({ ...task, demandRps: rps[k]! }));
      return problemOf(asked, constants, service, indicesOf);
    },
    slots,
  });
  const { targetUtilization, floorGain, periodMs } = constants;
  const sinceMs = state.nowMs - periodMs;
  const share = floorShare(before?.floorShare ?? 0, state.cpu, { sinceMs, targetUtilization, floorGain });
  const floor = { share, targetUtilization };
  // By the same versions: nothing loads within a second.
  const surges: Surge[] = [];
  const mostRatio = Math.max(constants.surgeRatio, 1 / loadOfFastest(problem));
  for (let level = values, k = 1; k <= constants.surges && Number.isFinite(mostRatio); k++) {
    const arrivalsPerMs = problem.arrivalsPerMs * mostRatio ** (k / constants.surges);
    const more = { ...problem, arrivalsPerMs };
    level = Array.from(solver.solve(more, constants, level).values);
    surges.push({ arrivalsPerMs, values: withPriceFloor(level, more, floor) });
  }
  const memory: WorkMdpMemory = {
    floorShare: share,
    demand,
    service,
    values,
    stepMs: problem.stepMs,
    residency: residency.memory,
    ...(isTroubled && { troubledUntilMs }),
    ...(isCautious && { cautiousUntilMs }),
    ...(slowSinceMs !== undefined && { slowSinceMs }),
  };
  return {
    actions: startsOf(tasks),
    residency: residency.actions,
    plan: planOf(tasks, problem, constants, service, {
      values: withPriceFloor(values, problem, floor),
      surges,
      gain: solved.gain,
    }),
    memory,
    reason: reasonOf(tasks, problem, values, solved.gain, residency.reason, isCautious),
    ...(isToBeTold && { notice: noticeOf(ratio, constants) }),
  };
}

/**
 * What was found out about each variant for a target: its profile, and what is believed of it. Variants do not change, so
 * it is kept; a decision of fifty tasks asks for six hundred.
 */
export class VariantCache {
  readonly #fingerprint: string | undefined;
  readonly #profiles = new WeakMap<Variant, Profile | null>();
  readonly #believed = new WeakMap<Variant, BelievedVersion>();

  constructor(fingerprint?: string) {
    this.#fingerprint = fingerprint;
  }

  profile(variant: Variant): Profile | undefined {
    let profile = this.#profiles.get(variant);
    if (profile === undefined) {
      profile = profileOf(variant, this.#fingerprint) ?? null;
      this.#profiles.set(variant, profile);
    }
    return profile ?? undefined;
  }

  /** What is believed of a variant: the same object as before where nothing has changed, so that what follows from it is known. */
  believed(variant: Variant, now: BelievedVersion): BelievedVersion {
    const before = this.#believed.get(variant);
    if (before !== undefined && isAsBelieved(before, now)) return before;
    this.#believed.set(variant, now);
    return now;
  }
}

function isAsBelieved(before: BelievedVersion, now: BelievedVersion): boolean {
  return (
    before.reward === now.reward &&
    before.meanMs === now.meanMs &&
    before.deviationMs === now.deviationMs &&
    before.ratio === now.ratio &&
    before.deviation === now.deviation &&
    before.loadMs === now.loadMs &&
    before.version === now.version
  );
}

interface Server {
  readonly slots: number;
  readonly cpuBudget: number;
  readonly variants: VariantCache;
}

function problemOf(
  tasks: readonly BelievedTask[],
  constants: WorkMdpConstants,
  service: ServiceMemory,
  indicesOf: IndicesOf,
): WorkProblem {
  const able = tasks.filter(({ versions }) => versions.length > 0);
  const slos = able.map(({ state }) => state.sloMs);
  const tightestMs = Math.min(...slos);
  const longestMs = Math.max(...slos);
  const isEmpty = able.length === 0;
  const reachMs = isEmpty ? 1 : constants.gridReach * longestMs;
  const stepMs = isEmpty ? 1 : Math.max(tightestMs / constants.cellsPerSlo, reachMs / constants.maxCells);
  const totalRps = able.reduce((sum, { demandRps }) => sum + demandRps, 0);
  return {
    stepMs,
    cells: isEmpty ? 1 : Math.ceil(reachMs / stepMs) + 1,
    arrivalsPerMs: totalRps / 1000,
    varianceMs: isEmpty ? 0 : serviceVariance(service) * constants.typicalServiceShare * tightestMs,
    tasks: tasks.map(
      (task, k): WorkTask => ({
        share: totalRps > 0 && task.versions.length > 0 ? task.demandRps / totalRps : 0,
        shedReward: -constants.lateCost * task.state.weight,
        limitMs: task.state.sloMs - constants.guardMs,
        versions: indicesOf(task, k).map((index) => task.versions[index]!),
      }),
    ),
  };
}

/** Share of the slot that demand takes by the fastest versions. */
function loadOfFastest({ tasks, arrivalsPerMs }: WorkProblem): number {
  let load = 0;
  for (const { share, versions } of tasks) {
    if (share === 0) continue;
    load += arrivalsPerMs * share * versions.reduce((least, { meanMs }) => Math.min(least, meanMs), Infinity);
  }
  return load;
}

function serviceVariance({ all }: ServiceMemory): number {
  return Math.max(0, all.squared - all.ratio * all.ratio);
}

function believedVersions(task: TaskState, service: ServiceMemory, server: Server): BelievedVersion[] {
  const best = task.frontier[0]?.accuracy.test ?? 0;
  const believed: BelievedVersion[] = [];
  for (const variant of task.frontier) {
    const told =
      task.planned?.find(({ version }) => version === variant.version)?.serviceMs ??
      slotServiceMs(variant, server);
    if (told === undefined) continue;
    const { ratio, variance } = serviceRatioOf(service, task.task, variant.version);
    const deviation = Math.sqrt(variance);
    const now: BelievedVersion = {
      version: variant.version,
      reward: task.weight * (best > 0 ? variant.accuracy.test / best : 1),
      meanMs: told * ratio,
      deviationMs: told * deviation,
      ratio,
      deviation,
      loadMs: server.variants.profile(variant)?.loadMs,
    };
    believed.push(server.variants.believed(variant, now));
  }
  return believed;
}

/**
 * How many times as long as profiles say inferences take: by what the server measures of its versions where it tells,
 * else by the requests that were computed.
 */
function profileRatio(tasks: readonly TaskState[], { all }: ServiceMemory, server: Server): number {
  let measuredMs = 0;
  let profiledMs = 0;
  for (const { planned = [], frontier } of tasks) {
    for (const { version, serviceMs } of planned) {
      const variant = frontier.find((candidate) => candidate.version === version);
      const told = variant && slotServiceMs(variant, server);
      if (told === undefined) continue;
      measuredMs += serviceMs;
      profiledMs += told;
    }
  }
  return profiledMs > 0 ? (all.ratio * measuredMs) / profiledMs : all.ratio;
}

function noticeOf(ratio: number, { noticeRatio }: WorkMdpConstants): string {
  return (
    `Inferences take ${ratio.toFixed(2)} times as long as their profiles say, above ${noticeRatio}: ` +
    'the profiles do not explain the load. Look for other work on this machine, or profile the variants again.'
  );
}

/** Time of one request on one of the server's slots by the profile. */
function slotServiceMs(variant: Variant, { slots, cpuBudget, variants }: Server): number | undefined {
  const profile = variants.profile(variant);
  const cpuMs = profile && requestCpuMs(profile);
  if (cpuMs === undefined || !Number.isFinite(cpuMs)) return undefined;
  return cpuMs * (slots / cpuBudget);
}

/** Demand peaks are remembered for two minutes, as means of two samples: one second's count alone is noise. */
const PEAK_WINDOW_MS = 120_000;

function peakRps({ demand }: TaskState, nowMs: number): number {
  let peak = 0;
  for (let i = demand.length - 1; i > 0 && demand[i]!.atMs > nowMs - PEAK_WINDOW_MS; i--) {
    peak = Math.max(peak, (demand[i]!.demandRps + demand[i - 1]!.demandRps) / 2);
  }
  return peak;
}

/** Until when nothing loads and until when the policy is cautious; undefined: nothing is wrong. */
function troubleOf(
  { tasks, nowMs }: PolicyState,
  constants: WorkMdpConstants,
  families: readonly (readonly BelievedVersion[])[],
  slots: number,
  before: WorkMdpMemory | undefined,
): Pick<WorkMdpMemory, 'troubledUntilMs' | 'cautiousUntilMs'> {
  let drainMs = 0;
  let tightestMs = Number.POSITIVE_INFINITY;
  let arrived = 0;
  let violations = 0;
  for (const [k, task] of tasks.entries()) {
    const smallest = families[k]!.at(-1);
    drainMs += ((task.queued ?? 0) * (smallest?.meanMs ?? 0)) / slots;
    tightestMs = Math.min(tightestMs, task.sloMs);
    arrived += meanSince(task.demand, nowMs - constants.periodMs);
    violations += task.violations ?? 0;
  }
  const isViolated = violations > Math.max(1, constants.troubledViolationRatio * arrived);
  const isLong = drainMs > constants.troubledDrainShare * tightestMs;
  const until = (isNow: boolean, untilMs: number | undefined) => {
    if (isNow) return nowMs + constants.troubledMs;
    return untilMs !== undefined && untilMs > nowMs ? untilMs : undefined;
  };
  return {
    troubledUntilMs: until(isViolated || isLong, before?.troubledUntilMs),
    cautiousUntilMs: until(isViolated, before?.cautiousUntilMs),
  };
}

/** A task that nothing answers gets its smallest version at once. */
function startsOf(tasks: readonly BelievedTask[]): Action[] {
  return tasks.flatMap(({ state, versions }): Action[] => {
    const smallest = versions.at(-1);
    if (smallest === undefined || state.servingVersion !== undefined || state.loadingVersion !== undefined)
      return [];
    if ((state.resident?.length ?? 0) > 0) return [];
    return [{ kind: 'switch', task: state.task, toVersion: smallest.version }];
  });
}

function planOf(
  tasks: readonly BelievedTask[],
  { stepMs, arrivalsPerMs, varianceMs = 0 }: WorkProblem,
  { lateCost }: WorkMdpConstants,
  service: ServiceMemory,
  solved: Pick<WorkPlan, 'values' | 'surges' | 'gain'>,
): WorkPlan {
  const deviation = Math.sqrt(serviceVariance(service));
  return {
    kind: 'work-mdp',
    stepMs,
    lateCost,
    varianceMs,
    arrivalsPerMs,
    ...solved,
    tasks: tasks.map(
      ({ state, demandRps, versions }): PlannedTask => ({
        task: state.task,
        demandRps,
        ratio: service.all.ratio,
        deviation,
        // Those that have answered; of the others no more is known than of all.
        versions: versions
          .filter(({ version }) => service.versions[state.task]?.[version] !== undefined)
          .map(({ version, ratio, deviation: own }) => ({ version, ratio, deviation: own })),
      }),
    ),
  };
}

function reasonOf(
  tasks: readonly BelievedTask[],
  { stepMs }: WorkProblem,
  values: readonly number[],
  gain: number,
  residency: string,
  isCautious: boolean,
): string {
  const demand = tasks.map(({ state, demandRps }) => `${state.task} ${demandRps.toFixed(1)}`).join(', ');
  const cell = Math.min(values.length - 1, Math.round(100 / stepMs));
  const price = values.length > 1 ? -values[cell]! : 0;
  const care = isCautious ? ' Requests were late or shed: careful for a while.' : '';
  return (
    `Demand expected per slot: ${demand || 'none'} req/s; ` +
    `a request should see ${(100 * gain).toFixed(1)} % of its task's best accuracy, ${Math.round(cell * stepMs)} ms of work cost ${(100 * price).toFixed(1)} points. ` +
    `${residency}${care}`
  ).trim();
}

function memoryOf(memory: unknown): WorkMdpMemory | undefined {
  if (typeof memory !== 'object' || memory === null || !('values' in memory)) return undefined;
  return memory as WorkMdpMemory; // What `decide` returned; the caller keeps it as it is.
}
