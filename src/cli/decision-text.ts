import type { Decision } from '../policy/policy.ts';

/** What a decision changes, a phrase each. */
export function changesOf({ actions, residency = [] }: Pick<Decision, 'actions' | 'residency'>): string[] {
  return [
    ...actions.map((action) => `${action.task} -> version ${action.toVersion}`),
    ...residency.map(({ kind, task, version }) => `${kind} version ${version} of ${task}`),
  ];
}
