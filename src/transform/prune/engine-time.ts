import { type NetworkWork, type WorkItem, whatMultiplies } from './network-work.ts';

/**
 * The time that an engine with blocked convolutions takes, as far as it can be told without measuring, in
 * multiply-accumulates at full speed: arithmetic, and traffic with memory. A kernel convolves up to four blocks of output
 * channels at once, each holding registers that wait for the same inputs. Where only one or two are left over, registers
 * run empty: on AVX2, a single block of eight takes almost as long as two.
 * @param block output channels of a block
 */
export function engineTimeItems(
  work: NetworkWork,
  whole: ArrayLike<number>,
  block: number,
  { sets, activation, weight }: EnginePrices,
): WorkItem[] {
  return [
    ...whatMultiplies(work, whole).map(
      ({ groups, macs, elements, filters }): WorkItem => ({
        groups,
        amount: (kept) => {
          const count = filters?.(kept);
          const slowdown = count ? (blocksOf(Math.ceil(count / block), sets) * block) / count : 1;
          return macs(kept) * slowdown + activation * elements(kept);
        },
      }),
    ),
    ...work.parameters.map(
      ({ groups, amount }): WorkItem => ({ groups, amount: (kept) => weight * amount(kept) }),
    ),
  ];
}

export interface EnginePrices {
  /** What 1, 2, 3 and 4 blocks of output channels cost that are convolved at once, in blocks at full speed. */
  readonly sets: readonly [number, number, number, number];
  /** Multiply-accumulates that take as long as moving one element of an activation. */
  readonly activation: number;
  /** The same for one weight. */
  readonly weight: number;
}

/** What a number of blocks costs: as many sets of four as there are, and one of what is left. */
function blocksOf(blocks: number, sets: EnginePrices['sets']): number {
  const left = blocks % sets.length;
  return Math.floor(blocks / sets.length) * sets.at(-1)! + (left === 0 ? 0 : sets[left - 1]!);
}
