import { mean } from '../base/statistics.ts';
import { recentUtilization, serviceMsOf } from './observed.ts';
import type { Action, Decision, Policy, PolicyState, TaskState } from './policy.ts';

/** How an autoscaler of replicas reacts; times in ms. */
export interface ReplicaRules {
  /** `concurrency`: requests there at once per replica; `cpu`: its utilization in [0, 1]. */
  readonly signal: 'concurrency' | 'cpu';
  readonly target: number;
  readonly periodMs: number;
  /** The signal is averaged over this. */
  readonly windowMs: number;
  /** A shorter window that counts instead while its mean is above `panicFactor` × target. */
  readonly panicWindowMs?: number;
  readonly panicFactor?: number;
  /** How long more capacity must have been wanted without a pause before it is given; the same for less. */
  readonly upDelayMs: number;
  readonly downDelayMs: number;
  /** Deviations from the target within this ratio are left alone. */
  readonly tolerance: number;
}

export const replicaRules = {
  /** Kubernetes HorizontalPodAutoscaler: 15 s sync period, 300 s down stabilisation, 10 % tolerance (its defaults). */
  hpa: {
    signal: 'cpu',
    target: 0.7,
    periodMs: 15_000,
    windowMs: 15_000,
    upDelayMs: 0,
    downDelayMs: 300_000,
    tolerance: 0.1,
  },
  /** Knative's KPA: 2 s ticks, 60 s stable and 6 s panic window, panic at 2 × target; containers of concurrency 1 at 70 %. */
  kpa: {
    signal: 'concurrency',
    target: 0.7,
    periodMs: 2_000,
    windowMs: 60_000,
    panicWindowMs: 6_000,
    panicFactor: 2,
    upDelayMs: 0,
    downDelayMs: 0,
    tolerance: 0,
  },
  /** Ray Serve: 2 ongoing requests a replica, 10 s of metrics looked back 30 s, up after 30 s, down after 600 s. */
  ray: {
    signal: 'concurrency',
    target: 2,
    periodMs: 10_000,
    windowMs: 30_000,
    upDelayMs: 30_000,
    downDelayMs: 600_000,
    tolerance: 0,
  },
} as const satisfies Record<string, ReplicaRules>;

export type ReplicaAutoscaler = keyof typeof replicaRules;

/**
 * What industrial autoscalers of replicas would do on one box that cannot be made bigger: "one replica more" becomes
 * "one version smaller" and the reverse. Up only where the signal would stay at the target with the larger version.
 * Sources: documentation of Kubernetes (horizontal pod autoscaling), Knative (KPA) and Ray Serve (autoscaling).
 */
export function replicaAutoscalerPolicy(
  kind: ReplicaAutoscaler,
  options: { readonly fingerprint?: string } = {},
): Policy {
  const rules: Rules = { ...replicaRules[kind], fingerprint: options.fingerprint };
  return {
    name: kind,
    metric: 'inverseThroughput',
    // Signals are sampled every second whatever the period of decisions, which counts in ticks.
    periodMs: SAMPLE_MS,
    decide: (state) => decide(state, kind, rules),
  };
}

const SAMPLE_MS = 1_000;

interface Rules extends ReplicaRules {
  /** The target whose profiles count; by default a variant's most recent one. */
  readonly fingerprint: string | undefined;
}

interface Memory {
  readonly tick: number;
  /** By task: samples of load (`loadOf`), and since when more or less capacity is wanted. */
  readonly tasks: Readonly<Record<string, TaskMemory>>;
}

interface TaskMemory {
  readonly samples: readonly number[];
  readonly moreSinceMs?: number;
  readonly lessSinceMs?: number;
  /** When the short window last counted: for `windowMs` after it nothing goes down. */
  readonly panicMs?: number;
}

function decide(state: PolicyState, kind: ReplicaAutoscaler, rules: Rules): Decision {
  const before = state.memory as Memory | undefined;
  const tick = (before?.tick ?? 0) + 1;
  const isDue = tick % Math.max(1, Math.round(rules.periodMs / SAMPLE_MS)) === 0;
  const actions: Action[] = [];
  const tasks: Record<string, TaskMemory> = {};
  const told: string[] = [];
  for (const task of state.tasks) {
    const remembered = before?.tasks[task.task] ?? { samples: [] };
    const kept = Math.ceil(rules.windowMs / SAMPLE_MS);
    const samples = [...remembered.samples, loadOf(task, state.cpuBudget, rules.fingerprint)].slice(-kept);
    const sampled = { ...remembered, samples };
    if (!isDue) {
      tasks[task.task] = sampled;
      continue;
    }
    const { memory, action, signal } = consider(state, task, sampled, rules);
    tasks[task.task] = memory;
    told.push(`${task.task} ${signal.toFixed(2)}`);
    if (action !== undefined) actions.push(action);
  }
  return {
    actions,
    memory: { tick, tasks } satisfies Memory,
    reason: isDue
      ? `${kind}, ${rules.signal} (target ${rules.target}): ${told.join(', ') || 'no tasks'}.`
      : `${kind} waits for its period.`,
  };
}

/**
 * Requests at the server at once (those that wait, and by Little's law demand × service time in computation), per ms
 * of service time: what it is worth in replicas does not change with the version that happened to serve then.
 */
function loadOf(task: TaskState, cpuBudget: number, fingerprint?: string): number {
  const serviceMs = servingMs(task, cpuBudget, fingerprint);
  if (serviceMs === undefined) return 0;
  return (task.queued ?? 0) / serviceMs + (task.demand.at(-1)?.demandRps ?? 0) / 1000;
}

function servingMs(task: TaskState, cpuBudget: number, fingerprint?: string): number | undefined {
  const serving = task.frontier.find(({ version }) => version === task.servingVersion);
  return serving && serviceMsOf(serving, cpuBudget, fingerprint);
}

function consider(
  state: PolicyState,
  task: TaskState,
  memory: TaskMemory,
  rules: Rules,
): { memory: TaskMemory; action?: Action; signal: number } {
  const { target, tolerance, upDelayMs, downDelayMs } = rules;
  const { signal, isPanic } = signalOf(state, task, memory, rules);
  const panicMs = isPanic ? state.nowMs : memory.panicMs;
  const isCalm = panicMs === undefined || state.nowMs - panicMs >= rules.windowMs;
  const index = task.frontier.findIndex(({ version }) => version === task.servingVersion);
  const wantsMore = signal > target * (1 + tolerance);
  const wantsLess =
    index > 0 &&
    isCalm &&
    !wantsMore &&
    signal * growth(task, index, state.cpuBudget, rules.fingerprint) < target * (1 - tolerance);
  const moreSinceMs = wantsMore ? (memory.moreSinceMs ?? state.nowMs) : undefined;
  const lessSinceMs = wantsLess ? (memory.lessSinceMs ?? state.nowMs) : undefined;
  const isUp = moreSinceMs !== undefined && state.nowMs - moreSinceMs >= upDelayMs;
  const isDown = lessSinceMs !== undefined && state.nowMs - lessSinceMs >= downDelayMs;
  const wanted = isUp ? task.frontier[index + 1] : isDown ? task.frontier[index - 1] : undefined;
  if (wanted === undefined || index < 0 || task.loadingVersion !== undefined) {
    return { memory: { ...memory, moreSinceMs, lessSinceMs, panicMs }, signal };
  }
  // The next step waits anew.
  return {
    memory: { samples: memory.samples, panicMs },
    action: { kind: 'switch', task: task.task, toVersion: wanted.version },
    signal,
  };
}

function signalOf(
  state: PolicyState,
  task: TaskState,
  { samples }: TaskMemory,
  rules: Rules,
): { signal: number; isPanic: boolean } {
  const { windowMs, panicWindowMs, panicFactor = Number.POSITIVE_INFINITY, target } = rules;
  if (rules.signal === 'cpu') {
    const utilization = recentUtilization(state, windowMs);
    return { signal: Number.isNaN(utilization) ? 0 : utilization, isPanic: false };
  }
  const serviceMs = servingMs(task, state.cpuBudget, rules.fingerprint) ?? 0;
  const stable = serviceMs * average(samples);
  if (panicWindowMs === undefined) return { signal: stable, isPanic: false };
  const panic = serviceMs * average(samples.slice(-Math.ceil(panicWindowMs / SAMPLE_MS)));
  const isPanic = panic >= panicFactor * target;
  return { signal: isPanic ? Math.max(panic, stable) : stable, isPanic };
}

function average(samples: readonly number[]): number {
  return samples.length === 0 ? 0 : mean(samples);
}

/** How many times the service time grows with the next larger version. */
function growth(task: TaskState, index: number, cpuBudget: number, fingerprint?: string): number {
  const [larger, present] = [task.frontier[index - 1]!, task.frontier[index]!].map((variant) =>
    serviceMsOf(variant, cpuBudget, fingerprint),
  );
  return larger !== undefined && present !== undefined ? larger / present : Number.POSITIVE_INFINITY;
}
