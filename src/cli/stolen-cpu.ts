import { readFile } from 'node:fs/promises';

/** CPU time of all CPUs so far, in ticks: counters of which only differences mean something. */
export interface CpuTicks {
  readonly total: number;
  /** What a virtual machine wanted and its host gave to others. */
  readonly stolen: number;
}

/** How many of the columns of /proc/stat are times of their own: those behind are parts of the first. */
const COLUMNS = 8;

/** @returns undefined where the system does not tell: anywhere but on Linux */
export async function readCpuTicks(file = '/proc/stat'): Promise<CpuTicks | undefined> {
  const text = await readFile(file, 'utf8').catch(() => '');
  const ticks = /^cpu +(.*)$/m.exec(text)?.[1]?.split(' ').slice(0, COLUMNS).map(Number);
  if (ticks?.length !== COLUMNS || ticks.some(Number.isNaN)) return undefined;
  return { total: ticks.reduce((sum, value) => sum + value, 0), stolen: ticks[COLUMNS - 1]! };
}

/** @returns the share of all CPU time between two looks, in [0, 1]; undefined where it is not known */
export function stolenRatio(from: CpuTicks | undefined, to: CpuTicks | undefined): number | undefined {
  if (from === undefined || to === undefined || to.total <= from.total) return undefined;
  return (to.stolen - from.stolen) / (to.total - from.total);
}
