import { readFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { InvalidArgumentError } from '../base/errors.ts';
import { statusField } from '../serve/pinning.ts';
import { parseCpus } from './parse.ts';

/** Where Linux lists the CPUs that are switched on, such as `0-3,8`. */
const ONLINE_FILE = '/sys/devices/system/cpu/online';

/**
 * The CPUs that this machine has, ascending, whether or not this process may use them: a bound process may bind its
 * children elsewhere. From Linux's list, else counted from 0.
 */
export function existingCpus(): number[] {
  try {
    return parseCpus(readFileSync(ONLINE_FILE, 'utf8').trim());
  } catch {
    return cpus().map((_, index) => index); // Another system, or one that does not tell.
  }
}

/** The CPUs that this process may use, ascending. */
export function usableCpus(): number[] {
  try {
    const allowed = parseCpus(statusField('Cpus_allowed_list') ?? '');
    return existingCpus().filter((cpu) => allowed.includes(cpu));
  } catch {
    return existingCpus();
  }
}

/** CPUs of a worker that measures: those of its server, and those of who sends the requests. */
export interface MeasuringCpus {
  readonly server: readonly number[];
  /** Absent where there are none left: then it runs where there is room. */
  readonly client?: readonly number[];
}

/**
 * CPUs for workers that measure at the same time, none of them in two workers: for each server as many as are named, those
 * that are named first; what is left, evenly for those that send the requests.
 * @param named what one server gets
 * @throws InvalidArgumentError where servers would have to share CPUs, which measures something else
 */
export function allotCpus(
  named: readonly number[],
  count: number,
  usable: readonly number[] = usableCpus(),
): MeasuringCpus[] {
  const order = [...usable].sort((a, b) => Number(named.includes(b)) - Number(named.includes(a)) || a - b);
  const each = named.length;
  if (count * each > order.length)
    throw new InvalidArgumentError(
      `${count} ${count === 1 ? 'server' : 'servers'} of ${each} ${each === 1 ? 'CPU' : 'CPUs'} need ${count * each}; this process may use ${order.length} (${rangesOf(usable)}). ` +
        `On shared CPUs, other figures would be measured: --workers ${Math.max(1, Math.floor(order.length / each))} at most, or fewer --cpus.`,
    );
  const left = order.slice(count * each);
  const share = Math.floor(left.length / count);
  return Array.from({ length: count }, (_, i) => ({
    server: order.slice(i * each, (i + 1) * each),
    ...(share > 0 && { client: left.slice(i * share, (i + 1) * share) }),
  }));
}

/** @throws InvalidArgumentError if the machine has not all of these CPUs, naming those that it has */
export function checkCpus(wanted: readonly number[], existing: readonly number[] = existingCpus()): void {
  const absent = wanted.filter((cpu) => !existing.includes(cpu));
  if (absent.length === 0) return;
  throw new InvalidArgumentError(
    `--cpus names ${absent.length === 1 ? 'CPU' : 'CPUs'} ${rangesOf(absent)}, which this machine does not have; ` +
      `it has ${rangesOf(existing)}.`,
  );
}

/**
 * @param cpus those named for the server; undefined: all that this process may use
 * @throws InvalidArgumentError if the quota is more than that
 */
export function checkCpuQuota(
  quota: number,
  cpus: readonly number[] | undefined,
  usable: number = availableParallelism(),
): void {
  const most = cpus?.length ?? usable;
  if (quota <= most) return;
  const whose = cpus === undefined ? 'that this process may use' : 'that --cpus names';
  throw new InvalidArgumentError(
    `--cpu-quota ${quota} is more than the ${most} ${most === 1 ? 'CPU' : 'CPUs'} ${whose}: no more time can be used than there is.`,
  );
}

/** `0,1,2,5` → `0-2,5`. */
function rangesOf(numbers: readonly number[]): string {
  const ranges: [first: number, last: number][] = [];
  for (const number of numbers) {
    const last = ranges.at(-1);
    if (last !== undefined && number === last[1] + 1) last[1] = number;
    else ranges.push([number, number]);
  }
  return ranges.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(',');
}
