import type { Action, Decision, Policy, PolicyState, TaskState } from './policy.ts';

/** The most accurate version of every task, the cheapest, or one version by name for some tasks. */
export type StaticChoice = 'largest' | 'smallest' | Readonly<Record<string, number>>;

/**
 * The policy that never changes its mind: each task is brought to one version of its frontier and kept there,
 * whatever the demand. The yardstick of every experiment. Source: thesis, section 5.4.1.
 * Tasks that a choice by name does not mention stay as they are; a version that is not on the frontier is
 * reported in `notice` and not taken, and so is a task that is not there.
 */
export function staticPolicy(choice: StaticChoice): Policy {
  return { name: nameOf(choice), decide: (state) => decide(state, choice) };
}

function decide(state: PolicyState, choice: StaticChoice): Decision {
  const actions: Action[] = [];
  const kept: string[] = [];
  const refused: string[] = [];
  for (const task of state.tasks) {
    const wanted = wantedVersion(task, choice);
    if (wanted === undefined) {
      kept.push(`${task.task} is left as it is`);
    } else if (!task.frontier.some((variant) => variant.version === wanted)) {
      const versions = task.frontier.map((variant) => variant.version).join(', ');
      refused.push(`version ${wanted} of ${task.task} is not on its frontier (${versions || 'empty'})`);
    } else if (task.servingVersion === wanted || task.loadingVersion === wanted) {
      kept.push(`${task.task} has its version ${wanted}`);
    } else {
      actions.push({ kind: 'switch', task: task.task, toVersion: wanted });
    }
  }
  if (typeof choice !== 'string') {
    const known = new Set(state.tasks.map(({ task }) => task));
    const unknown = Object.keys(choice).filter((task) => !known.has(task));
    if (unknown.length > 0)
      refused.push(`there is no task ${unknown.join(', ')} here (${[...known].join(', ')})`);
  }
  const moves = actions.map((action) => `${action.task} to version ${action.toVersion}`);
  const reason =
    moves.length > 0
      ? `${nameOf(choice)} puts ${moves.join(', ')}.`
      : `${nameOf(choice)} has nothing to change: ${[...kept, ...refused].join('; ') || 'there are no tasks'}.`;
  return refused.length > 0 ? { actions, reason, notice: `${refused.join('; ')}.` } : { actions, reason };
}

function wantedVersion(task: TaskState, choice: StaticChoice): number | undefined {
  if (choice === 'largest') return task.frontier[0]?.version;
  if (choice === 'smallest') return task.frontier.at(-1)?.version;
  return Object.hasOwn(choice, task.task) ? choice[task.task] : undefined;
}

function nameOf(choice: StaticChoice): string {
  if (typeof choice === 'string') return `static:${choice}`;
  return `static:${Object.entries(choice)
    .map(([task, version]) => `${task}=${version}`)
    .join(',')}`;
}
