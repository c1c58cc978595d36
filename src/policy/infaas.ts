import { recentDemandRps, serviceMsOf } from './observed.ts';
import type { Action, Decision, Policy, PolicyState, TaskState } from './policy.ts';

/** From the source (stanford-mast/INFaaS, src/worker/autoscaler.cc) where not said otherwise. */
export const infaasDefaults = {
  /** The model autoscaler looks every second. */
  periodMs: 1_000,
  /** Rates are means of 2 s (ours: the source counts between looks). */
  windowMs: 2_000,
  /** Share of a variant's capacity that is kept free. */
  slackRatio: 0.05,
  /** To move to a larger variant the load must fit below this share of what is allowed there. */
  upRatio: 0.8,
  /** Looks in a row for which it must have fitted: 10 requests on CPU in the source. */
  upLooks: 10,
} as const;

export interface InfaasOptions extends Partial<{ readonly [K in keyof typeof infaasDefaults]: number }> {
  /** The least normalised accuracy that users ask for, in [0, 1]. */
  readonly accuracyFloor?: number;
  /**
   * `source` (default): goes to larger variants when the load fits there. `published`: keeps to the cheapest
   * variant that meets the floor, whatever room there is, and to faster ones only under overload; without a floor
   * the smallest, as the thesis observes (section 5.2.3).
   */
  readonly reading?: 'source' | 'published';
  /** The target whose profiles count; by default a variant's most recent one. */
  readonly fingerprint?: string;
}

type Constants = { readonly [K in keyof typeof infaasDefaults]: number } & {
  readonly accuracyFloor: number;
  readonly reading: 'source' | 'published';
  readonly fingerprint?: string;
};

/**
 * An analogue of INFaaS for one server: each task has its fair share of the CPU and what is idle; a task whose rate
 * exceeds the capacity of its variant goes to the next faster one that carries it, and back up after a delay.
 * Source: Romero et al., "INFaaS: automated model-less inference serving", USENIX ATC 2021, section 4.
 */
export function infaasPolicy(options: InfaasOptions = {}): Policy {
  const constants: Constants = { accuracyFloor: 0, reading: 'source', ...infaasDefaults, ...options };
  return {
    name: constants.reading === 'source' ? 'infaas' : 'infaas:published',
    metric: 'inverseThroughput',
    periodMs: constants.periodMs,
    decide: (state) => decide(state, constants),
  };
}

/** Looks in a row, by task, at which the next larger variant would have carried the load. */
type Memory = Readonly<Record<string, number>>;

function decide(state: PolicyState, constants: Constants): Decision {
  const before = (state.memory ?? {}) as Memory;
  const memory: Record<string, number> = {};
  const demands = state.tasks.map((task) => recentDemandRps(task, state.nowMs, constants.windowMs));
  const used = state.tasks.reduce((sum, task, k) => {
    const serving = task.frontier.find(({ version }) => version === task.servingVersion);
    return (
      sum +
      (demands[k]! * ((serving && serviceMsOf(serving, state.cpuBudget, constants.fingerprint)) ?? 0)) / 1000
    );
  }, 0);
  const share = Math.min(1, 1 / Math.max(1, state.tasks.length) + Math.max(0, 1 - used));
  const actions: Action[] = [];
  const told: string[] = [];
  for (const [k, task] of state.tasks.entries()) {
    const looks = before[task.task] ?? 0;
    const wish = wishOf(task, demands[k]!, looks, { share, cpuBudget: state.cpuBudget, constants });
    memory[task.task] = wish.looks;
    if (wish.version === undefined || wish.version === task.servingVersion) continue;
    if (task.loadingVersion !== undefined) continue;
    actions.push({ kind: 'switch', task: task.task, toVersion: wish.version });
    told.push(`${task.task} to version ${wish.version} at ${demands[k]!.toFixed(1)} req/s`);
  }
  const room = `each task may use ${(100 * share).toFixed(0)} % of the CPU`;
  return {
    actions,
    memory,
    reason: told.length > 0 ? `As ${room}: ${told.join(', ')}.` : `Nothing to change: ${room}.`,
  };
}

function wishOf(
  task: TaskState,
  demandRps: number,
  looks: number,
  { share, cpuBudget, constants }: { share: number; cpuBudget: number; constants: Constants },
): { version?: number; looks: number } {
  const { accuracyFloor, slackRatio, upRatio, upLooks, reading } = constants;
  const top = task.frontier[0]?.accuracy.test ?? 0;
  const wanted = task.frontier.filter(({ accuracy }) => accuracy.test >= accuracyFloor * top);
  const last = wanted.length - 1;
  if (last < 0) return { looks: 0 };
  const capacityRps = (index: number) => {
    const serviceMs = serviceMsOf(wanted[index]!, cpuBudget, constants.fingerprint);
    return serviceMs === undefined ? 0 : ((1000 * share) / serviceMs) * (1 - slackRatio);
  };
  const serving = wanted.findIndex(({ version }) => version === task.servingVersion);
  if (serving < 0) return { version: wanted[last]!.version, looks: 0 };
  if (demandRps > capacityRps(serving)) {
    let index = serving;
    while (index < last && demandRps > capacityRps(index)) index++;
    return { version: wanted[index]!.version, looks: 0 };
  }
  if (reading === 'published') return { version: wanted[last]!.version, looks: 0 };
  if (serving === 0 || demandRps > upRatio * capacityRps(serving - 1)) return { looks: 0 };
  return looks + 1 >= upLooks ? { version: wanted[serving - 1]!.version, looks: 0 } : { looks: looks + 1 };
}
