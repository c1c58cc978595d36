import { mean } from '../base/statistics.ts';
import { type CostMetric, profileOf } from '../repository/types.ts';
import {
  type Allocation,
  allocationAt,
  allocationChain,
  type Ladder,
  ladderOf,
  positionOf,
} from './allocation.ts';
import type { Action, Decision, Policy, PolicyState } from './policy.ts';

/**
 * The constants of the thesis' policy, found there "by trial and error" (section 4.4); times in ms,
 * utilizations in [0, 1].
 */
export const trivialDefaults = {
  /** CPU and demand are sampled every second. */
  samplePeriodMs: 1_000,
  /** Demand, mean and maximal CPU are those of the last 10 s. */
  windowMs: 10_000,
  /** The deque of CPU samples keeps 20. */
  sampleCapacity: 20,
  /** No decision this soon after a change: its effect on the CPU must show first. */
  holdMs: 15_000,
  /** Steps up, and rearrangements, wait longer than steps down: too large a version hurts more. */
  stepUpHoldMs: 30_000,
  /** Step down when the mean CPU is above. */
  stepDownUtilization: 0.7,
  /** Step up when the maximal CPU is below. */
  stepUpUtilization: 0.5,
  /** A step down saves at least this share of the metric: small steps may have no effect. */
  minReductionRatio: 0.4,
  /** A step up aims at no more CPU than this. */
  stepUpGoalUtilization: 0.65,
  /** The metric explains the CPU while observed ≤ limit × predicted. */
  stepUpMultiplierLimit: 1.2,
  /**
   * Below this observed CPU administrators are not told that metric and CPU part (ours, not the thesis'):
   * the server's own idle work, some per cent, then outweighs the inferences.
   */
  noticeMinUtilization: 0.05,
  /** Factor on every time above; 0.1 makes a demonstration ten times shorter. */
  timeScale: 1,
} as const;

export type TrivialConstants = { readonly [K in keyof typeof trivialDefaults]: number };

export interface TrivialOptions extends Partial<TrivialConstants> {
  readonly metric?: CostMetric;
  /** The target whose profiles count; by default a variant's most recent one. */
  readonly fingerprint?: string;
}

/**
 * The thesis' policy (section 4.4): thresholds on the server's CPU say when to move, a chain of allocations says
 * where to. In this order, once `holdMs` have passed since the last change:
 *
 * 1. mean CPU above 70 %: the first allocation of the chain whose metric is at least 40 % below the current one's,
 *    or the smallest allocation if none saves that much;
 * 2. else, 30 s after the last change and with maximal CPU below 50 %: up. With `inverseThroughput` to the largest
 *    allocation whose metric is below multiplier × current, where multiplier = 65 % / observed CPU; if observed CPU
 *    is above 1.2 × the predicted, the metric does not explain it: multiplier = 65 % / (1.2 × predicted) and the
 *    administrators are told. With `latency` and `flops` by the smallest increment;
 * 3. else, 30 s after the last change: to a more accurate allocation that costs no more at today's demand.
 *
 * What the thesis leaves open: nothing moves before a whole window of CPU has been seen; tasks without demand keep their version (they cost nothing, a load would), and
 * without any demand nothing moves; a task without any version gets its smallest at once; nothing moves while a
 * version loads. With `latency` and `flops` a step up is not checked against the CPU it will take, so neighbours
 * that differ in cost by more than 70 % / 50 % = 1.4 can make the policy swing.
 */
export function trivialPolicy(options: TrivialOptions = {}): Policy {
  const metric = options.metric ?? 'inverseThroughput';
  const rules = {
    ...scaled({ ...trivialDefaults, ...definedOnly(options) }),
    metric,
    fingerprint: options.fingerprint,
  };
  return {
    name: `trivial:${metric}`,
    metric,
    periodMs: rules.samplePeriodMs,
    decide: (state) => decide(state, rules),
  };
}

interface Rules extends TrivialConstants {
  readonly metric: CostMetric;
  readonly fingerprint: string | undefined;
}

function decide(state: PolicyState, rules: Rules): Decision {
  const starts = startsOf(state, rules);
  if (starts.length > 0) {
    const names = starts.map((action) => `${action.task} (version ${action.toVersion})`).join(', ');
    return { actions: starts, reason: `No version serves ${names}: the smallest starts at once.` };
  }
  const loading = state.tasks.find((task) => task.loadingVersion !== undefined);
  if (loading !== undefined) return stay(`Version ${loading.loadingVersion} of ${loading.task} is loading.`);

  const cpu = state.cpu
    .slice(-rules.sampleCapacity)
    .filter((sample) => sample.atMs > state.nowMs - rules.windowMs)
    .map((sample) => sample.utilization);
  if (cpu.length === 0) return stay(`There is no CPU sample of the last ${seconds(rules.windowMs)} yet.`);
  const meanCpu = mean(cpu);
  const maxCpu = Math.max(...cpu);
  // A server that has just started is busy with itself: its first samples say nothing about the demand.
  if (state.nowMs - state.cpu[0]!.atMs < rules.windowMs - rules.samplePeriodMs) {
    return stay(
      `CPU has been watched for less than ${seconds(rules.windowMs)} (mean so far ${percent(meanCpu)}).`,
    );
  }
  const sinceChangeMs = state.nowMs - (state.lastChangeMs ?? Number.NEGATIVE_INFINITY);
  if (sinceChangeMs <= rules.holdMs) {
    return stay(
      `The last change is ${seconds(sinceChangeMs)} old, its effect is awaited for ${seconds(rules.holdMs)} (mean CPU ${percent(meanCpu)}).`,
    );
  }

  const { ladders, current } = present(state, rules);
  if (ladders.length === 0) {
    return stay(`No task had demand in the last ${seconds(rules.windowMs)} (mean CPU ${percent(meanCpu)}).`);
  }
  const chain = allocationChain(ladders);
  const now: Situation = { state, rules, ladders, current, chain, meanCpu, maxCpu };
  const decision = rule(now, sinceChangeMs);
  const notice = noticeOf(now);
  return notice === undefined ? decision : { ...decision, notice };
}

/** What the three rules look at. */
interface Situation {
  readonly state: PolicyState;
  readonly rules: Rules;
  readonly ladders: readonly Ladder[];
  readonly current: Allocation;
  /** Never empty: it holds at least the largest allocation. */
  readonly chain: readonly Allocation[];
  readonly meanCpu: number;
  readonly maxCpu: number;
}

function rule(now: Situation, sinceChangeMs: number): Decision {
  const { rules, meanCpu, maxCpu } = now;
  if (meanCpu > rules.stepDownUtilization) return stepDown(now);
  if (sinceChangeMs <= rules.stepUpHoldMs) {
    return stay(
      `Mean CPU ${percent(meanCpu)} asks for no step down, and the last change is ${seconds(sinceChangeMs)} old, not yet ${seconds(rules.stepUpHoldMs)}.`,
    );
  }
  return maxCpu < rules.stepUpUtilization ? stepUp(now) : rearrange(now);
}

function stepDown(now: Situation): Decision {
  const { rules, chain, current, meanCpu } = now;
  const why = `Mean CPU ${percent(meanCpu)} is above ${percent(rules.stepDownUtilization)}`;
  const limit = (1 - rules.minReductionRatio) * current.metric;
  const target = chain.find((allocation) => allocation.metric <= limit) ?? chain.at(-1)!;
  if (target.metric >= current.metric)
    return stay(`${why}, but every task with demand has its smallest version.`);
  const saved = 1 - target.metric / current.metric;
  return move(now, target, `${why}: down to ${percent(saved)} less ${rules.metric}`);
}

function stepUp(now: Situation): Decision {
  const { rules, chain, current, meanCpu, maxCpu } = now;
  const why = `Maximal CPU ${percent(maxCpu)} is below ${percent(rules.stepUpUtilization)}`;
  if (rules.metric !== 'inverseThroughput') {
    const target = chain.findLast((next) => next.metric > current.metric && isBetter(next, current));
    if (target === undefined) return stay(`${why}, but every task with demand has its largest version.`);
    return move(now, target, `${why}: up by the smallest increment of ${rules.metric}`);
  }
  const theory = predictedUtilization(now);
  const trusted = rules.stepUpMultiplierLimit * theory;
  // An observation of exactly 0 at some demand is a reading too coarse to divide by.
  const basis = meanCpu === 0 || trusted < meanCpu ? trusted : meanCpu;
  const multiplier = rules.stepUpGoalUtilization / basis;
  const room = `the metric may grow ${multiplier.toFixed(3)} times (${percent(rules.stepUpGoalUtilization)} / ${percent(basis)})`;
  const target = chain.find((allocation) => allocation.metric < multiplier * current.metric);
  if (target === undefined || !isBetter(target, current)) {
    return stay(`${why} and ${room}, but no more accurate allocation fits.`);
  }
  return move(now, target, `${why} and ${room}: up to ${(target.metric / current.metric).toFixed(3)} times`);
}

function rearrange(now: Situation): Decision {
  const { rules, chain, current, meanCpu, maxCpu } = now;
  const target = chain.find((allocation) => allocation.metric <= current.metric);
  if (target === undefined || !isBetter(target, current)) {
    return stay(
      `CPU (mean ${percent(meanCpu)}, maximal ${percent(maxCpu)}) is within ${percent(rules.stepUpUtilization)} to ${percent(rules.stepDownUtilization)}, and no allocation of the same cost is more accurate.`,
    );
  }
  return move(
    now,
    target,
    `At today's demand accuracy ${percent(target.accuracy)} instead of ${percent(current.accuracy)} costs no more`,
  );
}

/** Differences of normalised accuracy below this are rounding, not a reason to load a network. */
export const ACCURACY_TOLERANCE = 1e-9;

function isBetter(target: Allocation, current: Allocation): boolean {
  return target.accuracy > current.accuracy + ACCURACY_TOLERANCE;
}

/** The ladders of the tasks that have demand, and where these tasks stand on them. */
function present(state: PolicyState, rules: Rules): { ladders: Ladder[]; current: Allocation } {
  const ladders: Ladder[] = [];
  const positions: number[] = [];
  for (const task of state.tasks) {
    const samples = task.demand.filter((sample) => sample.atMs > state.nowMs - rules.windowMs);
    const demandRps = samples.length > 0 ? mean(samples.map((sample) => sample.demandRps)) : 0;
    const ladder = ladderOf(task, demandRps, rules.metric, rules.fingerprint);
    if (ladder === undefined || task.servingVersion === undefined || demandRps <= 0) continue;
    ladders.push(ladder);
    positions.push(positionOf(ladder, task.servingVersion));
  }
  return { ladders, current: allocationAt(ladders, positions) };
}

/**
 * The CPU that the current allocation should take, by inverse throughput. A profile's throughput used all CPUs of
 * its target, so a server with another budget is predicted by the ratio of the two.
 */
function predictedUtilization({ state, rules, ladders, current }: Situation): number {
  let coreSeconds = 0;
  for (const [index, ladder] of ladders.entries()) {
    const step = ladder.steps[current.positions[index]!]!;
    const task = state.tasks.find((candidate) => candidate.task === ladder.task);
    const variant = task?.frontier.find((candidate) => candidate.version === step.version);
    const profile = variant && profileOf(variant, rules.fingerprint);
    coreSeconds += ladder.demandRps * step.cost * (profile?.target.cpus ?? state.cpuBudget);
  }
  return coreSeconds / state.cpuBudget;
}

function noticeOf(now: Situation): string | undefined {
  const { rules, meanCpu } = now;
  if (rules.metric !== 'inverseThroughput' || meanCpu < rules.noticeMinUtilization) return undefined;
  const theory = predictedUtilization(now);
  if (rules.stepUpMultiplierLimit * theory >= meanCpu) return undefined;
  return (
    `Observed CPU ${percent(meanCpu)} is above ${rules.stepUpMultiplierLimit} × the predicted ${percent(theory)}: ` +
    'the profiles do not explain the load. Look for other work on this machine, or profile the variants again.'
  );
}

function startsOf(state: PolicyState, rules: Rules): Action[] {
  const actions: Action[] = [];
  for (const task of state.tasks) {
    if (task.servingVersion !== undefined || task.loadingVersion !== undefined) continue;
    const smallest = ladderOf(task, 0, rules.metric, rules.fingerprint)?.steps.at(-1);
    if (smallest !== undefined)
      actions.push({ kind: 'switch', task: task.task, toVersion: smallest.version });
  }
  return actions;
}

/** The switches from where the tasks are to the allocation. */
function move({ state, ladders }: Situation, target: Allocation, why: string): Decision {
  const actions: Action[] = [];
  const changes: string[] = [];
  for (const [index, ladder] of ladders.entries()) {
    const toVersion = ladder.steps[target.positions[index]!]!.version;
    const from = state.tasks.find((task) => task.task === ladder.task)?.servingVersion;
    if (from === toVersion) continue;
    actions.push({ kind: 'switch', task: ladder.task, toVersion });
    changes.push(
      `${ladder.task} from version ${from} to ${toVersion} at ${ladder.demandRps.toPrecision(3)} req/s`,
    );
  }
  return { actions, reason: `${why}: ${changes.join(', ')}.` };
}

function stay(reason: string): Decision {
  return { actions: [], reason };
}

function scaled(constants: TrivialConstants): TrivialConstants {
  const { timeScale } = constants;
  return {
    ...constants,
    samplePeriodMs: constants.samplePeriodMs * timeScale,
    windowMs: constants.windowMs * timeScale,
    holdMs: constants.holdMs * timeScale,
    stepUpHoldMs: constants.stepUpHoldMs * timeScale,
  };
}

/** Options without those that are given as undefined, which would otherwise hide the defaults. */
function definedOnly(options: TrivialOptions): Partial<TrivialConstants> {
  const entries = Object.entries(options).filter(
    ([key, value]) => value !== undefined && key in trivialDefaults,
  );
  return Object.fromEntries(entries); // Only keys of the defaults are left, whose values are numbers.
}

function percent(ratio: number): string {
  return `${(100 * ratio).toFixed(1)} %`;
}

function seconds(durationMs: number): string {
  return `${Number((durationMs / 1000).toFixed(2))} s`;
}
