import {
  accepts,
  type Dispatch,
  type DispatchDecision,
  type DispatchState,
  fastestVersion,
  type ResidentVersion,
  shedUnacceptable,
} from './dispatch.ts';

/**
 * When a request is given up: `never`; once it is `expired` (its deadline has passed while it waited); once it is
 * `hopeless` (the version that would answer it cannot do so in time).
 */
export type DropRule = 'never' | 'expired' | 'hopeless';

/**
 * The dispatch of policies that name one version per task: that one answers, in the order of the queue. While the
 * task has none (or the client does not accept it) the fastest resident version that the client accepts does.
 */
export function servingDispatch(options: { readonly drop?: DropRule } = {}): Dispatch {
  const drop = options.drop ?? 'never';
  return { name: 'serving', pick: (state) => pick(state, drop) };
}

function pick(state: DispatchState, drop: DropRule): DispatchDecision {
  const request = state.queue[0]!;
  const task = state.tasks[request.task]!;
  const serving = task.versions.find(({ version }) => version === task.servingVersion);
  const version =
    serving !== undefined && accepts(request, serving) ? serving : fastestVersion(request, task);
  // Where nothing is loaded yet, something will be.
  if (version === undefined && task.versions.length === 0) return { kind: 'wait' };
  if (version === undefined) return shedUnacceptable(0, request, task);
  return isDropped(state, version, drop)
    ? { kind: 'shed', index: 0, reason: 'deadline' }
    : { kind: 'run', index: 0, version: version.version };
}

/** Whether the first request of the queue is given up by the rule, were `version` to answer it. */
export function isDropped(
  { nowMs, queue }: DispatchState,
  version: ResidentVersion,
  drop: DropRule,
): boolean {
  if (drop === 'never') return false;
  return nowMs + (drop === 'hopeless' ? version.serviceMs : 0) > queue[0]!.deadlineMs;
}
