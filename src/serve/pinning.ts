import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { messageOf } from '../base/errors.ts';

const run = promisify(execFile);

/**
 * Binds all threads of this process, and those they start later, to the given CPUs (Linux, by `taskset`).
 * @returns how to undo it, or the reason why it could not be done
 */
export async function pinProcess(
  cpus: readonly number[],
): Promise<{ readonly unpin: () => Promise<void> } | { readonly problem: string }> {
  try {
    const before = statusField('Cpus_allowed_list');
    await run('taskset', ['-acp', cpus.join(','), String(process.pid)]);
    return {
      unpin: async () => {
        if (before !== undefined) await run('taskset', ['-acp', before, String(process.pid)]);
      },
    };
  } catch (thrown) {
    return { problem: `CPUs ${cpus.join(',')} cannot be pinned: ${messageOf(thrown).split('\n')[0]}` };
  }
}

/** Bit of CAP_SYS_NICE in Linux's capability sets. */
const CAP_SYS_NICE = 23n;

/** Whether a thread may be given a better priority again after it was lowered (CAP_SYS_NICE, or a nice limit that allows 0). */
export function mayRaisePriority(): boolean {
  const effective = statusField('CapEff');
  if (effective === undefined) return false;
  if (((BigInt(`0x${effective}`) >> CAP_SYS_NICE) & 1n) === 1n) return true;
  try {
    // The limit counts from 1 (nice 19) to 40 (nice -20): 20 allows nice 0.
    const limit = /^Max nice priority\s+(\d+|unlimited)/m.exec(
      readFileSync('/proc/self/limits', 'utf8'),
    )?.[1];
    return limit === 'unlimited' || Number(limit) >= 20;
  } catch {
    return false;
  }
}

/** A field of what Linux says about this process; undefined elsewhere. */
export function statusField(name: string): string | undefined {
  try {
    return new RegExp(`^${name}:\\s*(\\S+)`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  } catch {
    return undefined;
  }
}
