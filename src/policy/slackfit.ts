import {
  accepts,
  type Dispatch,
  type DispatchDecision,
  type DispatchState,
  type DispatchTask,
  fastestVersion,
  type QueuedRequest,
  type ResidentVersion,
  shedUnacceptable,
} from './dispatch.ts';
import type { Policy } from './policy.ts';

export const slackFitDefaults = {
  /** A version fits if so many times its service time is left. */
  serviceFactor: 1.05,
  /** The same for the smallest versions that requests behind will need at least. */
  queueFactor: 1.15,
  /** Requests behind the first one that are looked at. */
  queueLook: 60,
} as const;

export interface SlackFitOptions extends Partial<{ readonly [K in keyof typeof slackFitDefaults]: number }> {
  /** Whether the requests behind the first one limit what it may take; ours. */
  readonly queueAware?: boolean;
}

type Constants = { readonly [K in keyof typeof slackFitDefaults]: number } & { readonly queueAware: boolean };

/**
 * SlackFit: the most accurate resident version whose service time fits the slack of the earliest deadline. The
 * queue-aware variant also leaves the requests behind enough time for their fastest versions. Needs versions
 * resident; decides nothing between requests.
 * Source: Khare et al., "SuperServe: fine-grained inference serving for unpredictable workloads", arXiv 2312.16733,
 * section 4.
 */
export function slackFitPolicy(options: SlackFitOptions = {}): Policy {
  const dispatch = slackFitDispatch(options);
  return {
    name: dispatch.name,
    metric: 'inverseThroughput',
    decide: () => ({ actions: [], reason: 'SlackFit decides request by request.' }),
    dispatch,
  };
}

export function slackFitDispatch(options: SlackFitOptions = {}): Dispatch {
  const constants = { ...slackFitDefaults, queueAware: false, ...options };
  return {
    name: constants.queueAware ? 'slackfit:queue-aware' : 'slackfit',
    pick: (state) => pick(state, constants),
  };
}

function pick(state: DispatchState, constants: Constants): DispatchDecision {
  const request = state.queue[0]!;
  const task = state.tasks[request.task]!;
  const fastest = fastestVersion(request, task);
  if (fastest === undefined) {
    return task.versions.length === 0 ? { kind: 'wait' } : shedUnacceptable(0, request, task);
  }
  const slackMs = slackOf(state, constants);
  const fitting = mostAccurate(request, task, slackMs / constants.serviceFactor);
  if (fitting !== undefined) return { kind: 'run', index: 0, version: fitting.version };
  return state.nowMs + fastest.serviceMs > request.deadlineMs
    ? { kind: 'shed', index: 0, reason: 'deadline' }
    : { kind: 'run', index: 0, version: fastest.version };
}

/** Time that the first request may take: until its own deadline, or so that those behind can still make theirs. */
function slackOf({ queue, tasks, nowMs, guardMs }: DispatchState, constants: Constants): number {
  let slackMs = queue[0]!.deadlineMs - nowMs - guardMs;
  if (!constants.queueAware) return slackMs;
  let behindMs = 0;
  for (let i = 1; i < queue.length && i < constants.queueLook; i++) {
    const request = queue[i]!;
    behindMs += constants.queueFactor * (fastestVersion(request, tasks[request.task]!)?.serviceMs ?? 0);
    slackMs = Math.min(slackMs, request.deadlineMs - nowMs - guardMs - behindMs);
  }
  return slackMs;
}

function mostAccurate(
  request: QueuedRequest,
  task: DispatchTask,
  limitMs: number,
): ResidentVersion | undefined {
  for (const version of task.versions) {
    if (version.serviceMs <= limitMs && accepts(request, version)) return version;
  }
  return undefined;
}
