import type { Decision } from '../policy/policy.ts';

/** What a decision changes, a phrase for each task and kind of change. */
export function changesOf({ actions, residency = [] }: Pick<Decision, 'actions' | 'residency'>): string[] {
  const moves = new Map<
    string,
    { readonly kind: string; readonly task: string; readonly versions: number[] }
  >();
  for (const { kind, task, version } of residency) {
    const key = `${kind} ${task}`;
    const move = moves.get(key) ?? { kind, task, versions: [] };
    move.versions.push(version);
    moves.set(key, move);
  }
  return [
    ...actions.map((action) => `${action.task} -> version ${action.toVersion}`),
    ...[...moves.values()].map(
      ({ kind, task, versions }) =>
        `${kind} version${versions.length === 1 ? '' : 's'} ${versions.join(', ')} of ${task}`,
    ),
  ];
}
