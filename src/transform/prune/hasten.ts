import { type Allocation, Costs, type GroupChoices } from './allocate.ts';
import type { WorkItem } from './network-work.ts';

/**
 * Of the allocations that do as much work as the one given, looks for one that takes an engine less time: a group (or
 * two at once, one wider, one narrower) moves by a few blocks as long as time falls while work and loss stay within
 * their bounds. Multiply-accumulates alone do not tell time: those of a layer with many activations or many weights
 * wait for memory. A local search, so its outcome depends on the start.
 * @param start channels kept, by the group's position, each among the group's choices and within the bounds
 * @param items what work and time add up from
 */
export function hasten(
  choices: readonly GroupChoices[],
  start: readonly number[],
  items: { readonly work: readonly WorkItem[]; readonly time: readonly WorkItem[] },
  bounds: HastenBounds,
): Allocation {
  const work = new Costs(choices, items.work);
  const time = new Costs(choices, items.time);
  const lossAt = (group: number, at: number) => choices[group]!.loss[at]!;
  const move = (group: number, to: number) => {
    work.move(group, to);
    time.move(group, to);
  };
  for (const [group, kept] of start.entries()) move(group, choices[group]!.kept.indexOf(kept));
  let loss = choices.reduce((sum, _, group) => sum + lossAt(group, time.positions[group]!), 0);

  const fits = (workThen: number, lossThen: number) =>
    workThen >= bounds.least && workThen <= bounds.most && lossThen <= bounds.maxLoss;
  for (let round = 0; round < hastenDefaults.rounds; round++) {
    const singles = choices.flatMap(({ kept }, group): Shift[] =>
      hastenDefaults.steps.flatMap((step) => {
        const [from, to] = [time.positions[group]!, time.positions[group]! + step];
        if (to < 0 || to >= kept.length) return [];
        const change = lossAt(group, to) - lossAt(group, from);
        return [
          {
            group,
            from,
            to,
            work: work.difference(group, to),
            time: time.difference(group, to),
            loss: change,
          },
        ];
      }),
    );
    const promising = bestExchanges(singles, (shift) => fits(work.total + shift.work, loss + shift.loss));
    let isBetter = false;
    for (const shifts of promising) {
      // An earlier one of this round has moved the group.
      if (shifts.some(({ group, from }) => time.positions[group] !== from)) continue;
      const before = time.total;
      for (const { group, to } of shifts) move(group, to);
      const lossThen = shifts.reduce((sum, shift) => sum + shift.loss, loss);
      if (time.total < before * (1 - hastenDefaults.leastGain) && fits(work.total, lossThen)) {
        loss = lossThen;
        isBetter = true;
      } else for (const { group, from } of shifts) move(group, from);
    }
    if (!isBetter) break;
  }
  return {
    kept: time.positions.map((at, group) => choices[group]!.kept[at]!),
    cost: time.total,
    loss,
    isMet: fits(work.total, loss),
  };
}

export interface HastenBounds {
  /** Work that has to remain. */
  readonly least: number;
  readonly most: number;
  /** Σ of the groups' losses at most. */
  readonly maxLoss: number;
}

export const hastenDefaults = {
  /** Each applies every exchange that still helps; a few dozen rounds settle DenseNet's 120 groups. */
  rounds: 100,
  /** Blocks by which a group moves at once. */
  steps: [-4, -2, -1, 1, 2, 4],
  /** Exchanges that are tried in a round, the best by estimate first. */
  tried: 512,
  /** Share of the time that an exchange has to save; less is a walk on a plateau. */
  leastGain: 1e-5,
} as const;

interface Shift {
  readonly group: number;
  readonly from: number;
  readonly to: number;
  readonly work: number;
  readonly time: number;
  readonly loss: number;
}

/** Single shifts and pairs that save most time, as if the groups of a pair did not touch each other. */
function bestExchanges(
  singles: readonly Shift[],
  fits: (sum: Pick<Shift, 'work' | 'loss'>) => boolean,
): (readonly Shift[])[] {
  const found: { readonly time: number; readonly shifts: readonly Shift[] }[] = [];
  let bar = 0;
  const offer = (time: number, shifts: readonly Shift[]) => {
    found.push({ time, shifts });
    if (found.length < 2 * hastenDefaults.tried) return;
    found.sort((a, b) => a.time - b.time);
    found.length = hastenDefaults.tried;
    bar = found.at(-1)!.time;
  };
  for (const [i, a] of singles.entries()) {
    if (a.time < bar && fits(a)) offer(a.time, [a]);
    for (let j = i + 1; j < singles.length; j++) {
      const b = singles[j]!;
      const time = a.time + b.time;
      if (time >= bar || a.group === b.group) continue;
      if (fits({ work: a.work + b.work, loss: a.loss + b.loss })) offer(time, [a, b]);
    }
  }
  return found.sort((a, b) => a.time - b.time).map(({ shifts }) => shifts);
}
