import { costOf } from '../repository/types.ts';
import type { Policy, PolicyState, TaskState } from './policy.ts';
import { type TrivialOptions, trivialPolicy } from './trivial.ts';

export interface MaximalMetricOptions extends TrivialOptions {
  /** In the metric's unit (s, s, or multiply-accumulates): one limit for all tasks, or by task. */
  readonly limit: number | Readonly<Record<string, number>>;
}

/**
 * The thesis' second policy (section 4.4): versions that cost the limit or more are not considered, so that a sudden
 * demand never meets a version that cannot hold it; among the others the trivial policy decides. A task all of whose
 * versions cost too much keeps its smallest; one that serves a version beyond the limit is brought to the most
 * accurate one below it at once.
 */
export function maximalMetricPolicy(options: MaximalMetricOptions): Policy {
  const { limit, ...rest } = options;
  const trivial = trivialPolicy(rest);
  return {
    ...trivial,
    name: `maximal-metric:${trivial.metric}`,
    decide(state) {
      const tasks = state.tasks.map((task) => considered(task, options));
      const actions = tasks.flatMap(({ task, servingVersion, loadingVersion, frontier }) => {
        const isBeyond = servingVersion !== undefined && servingVersion < (frontier[0]?.version ?? 0);
        const isOff = isBeyond && !frontier.some(({ version }) => version === servingVersion);
        if (!isOff || loadingVersion !== undefined) return [];
        return [{ kind: 'switch' as const, task, toVersion: frontier[0]!.version }];
      });
      if (actions.length === 0) return trivial.decide({ ...state, tasks } satisfies PolicyState);
      const names = actions.map(({ task, toVersion }) => `${task} (to version ${toVersion})`).join(', ');
      return { actions, memory: state.memory, reason: `Versions that cost too much serve ${names}.` };
    },
  };
}

function considered(task: TaskState, { limit, metric, fingerprint }: MaximalMetricOptions): TaskState {
  const own = typeof limit === 'number' ? limit : limit[task.task];
  if (own === undefined) return task;
  const frontier = task.frontier.filter((variant) => {
    const cost = costOf(variant, metric ?? 'inverseThroughput', fingerprint);
    return cost !== undefined && cost < own;
  });
  return { ...task, frontier: frontier.length > 0 ? frontier : task.frontier.slice(-1) };
}
