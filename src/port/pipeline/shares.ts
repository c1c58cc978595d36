import type { Branch } from './plan.ts';

/**
 * A plan's branches shared among workers: as many lists as there are workers, some of them perhaps empty. A branch stays with
 * the one that it is pruned from, so that no worker waits for another. The pieces, the one with the most work first, go to the
 * worker with the least work so far; the same plan is always shared in the same way.
 */
export function sharesOf(plan: readonly Branch[], workers: number): readonly (readonly Branch[])[] {
  const pieces = new Map<number, Branch[]>();
  const rootOf = new Map<number, number>();
  for (const branch of plan) {
    // A parent comes before its children.
    const root = branch.parent === undefined ? branch.index : rootOf.get(branch.parent)!;
    rootOf.set(branch.index, root);
    pieces.set(root, [...(pieces.get(root) ?? []), branch]);
  }
  const shares = Array.from({ length: workers }, () => ({ work: 0, branches: [] as Branch[] }));
  // The sort is stable: pieces of equal work stay in the order of the plan.
  for (const piece of [...pieces.values()].sort((a, b) => workOf(b) - workOf(a))) {
    const least = shares.reduce((a, b) => (b.work < a.work ? b : a));
    least.work += workOf(piece);
    least.branches.push(...piece);
  }
  return shares.map(({ branches }) => branches.toSorted((a, b) => a.index - b.index));
}

/** A ratio r leaves about (1 - r)² of the work; a teacher only runs forwards, at full width, which is a third of a step. */
function workOf(branches: readonly Branch[]): number {
  return branches.reduce(
    (sum, { ratio, isDistilled }) => sum + (1 - ratio) ** 2 + (isDistilled ? 1 / 3 : 0),
    0,
  );
}
