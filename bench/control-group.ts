import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Folder of a control group whose processes get so many CPUs together at most. */
export interface ControlGroup {
  readonly folder: string;
  /** The group has to be empty. */
  remove(): void;
}

/**
 * In so short a time a group has its share of CPU: with the usual 100 ms, one that is given 0.4 CPUs stands still for 60 ms at
 * a time, which no slower machine does.
 */
const PERIOD_US = 10_000;

/**
 * Makes control groups with a CPU quota (Linux; version 2, or the controller `cpu` of version 1), which needs root.
 * Source: Linux kernel documentation, admin-guide/cgroup-v2 and scheduler/sched-bwc.
 * @throws Error where the system does not allow it
 */
export function quotaGroup(name: string, cpus: number): ControlGroup {
  const quotaUs = Math.round(cpus * PERIOD_US);
  const isV2 = existsSync('/sys/fs/cgroup/cgroup.controllers');
  const folder = join(isV2 ? '/sys/fs/cgroup' : '/sys/fs/cgroup/cpu', name);
  if (!existsSync(join(folder, '..', isV2 ? 'cgroup.procs' : 'cpu.cfs_quota_us')))
    throw new Error('CPU quotas need control groups (Linux): no cpu controller is mounted at /sys/fs/cgroup');
  mkdirSync(folder);
  const remove = () => rmdirSync(folder);
  try {
    if (isV2) writeFileSync(join(folder, 'cpu.max'), `${quotaUs} ${PERIOD_US}`);
    else {
      writeFileSync(join(folder, 'cpu.cfs_period_us'), String(PERIOD_US));
      writeFileSync(join(folder, 'cpu.cfs_quota_us'), String(quotaUs));
    }
  } catch (error) {
    remove();
    throw error;
  }
  return { folder, remove };
}
