import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BonsaiError, systemCodeOf } from '../../base/errors.ts';

/** CPU seconds used so far: a counter of which only differences mean something. */
export interface CpuReader {
  cpuSeconds(): Promise<number>;
}

/** Linux' USER_HZ, the unit of /proc/PID/stat: 100 on every architecture that Node.js runs on. */
export const TICKS_PER_SECOND = 100;

/**
 * The CPU time of a process and all its descendants, from /proc. Children that ended are counted by their parent
 * once it has waited for them, so nothing is lost or counted twice as long as they are waited for.
 * @param procRoot where procfs is mounted
 * @returns a reader whose `cpuSeconds` throws BonsaiError `server_unreachable` when the process is gone and
 * `unsupported` where there is no procfs (macOS, Windows)
 */
export function processTreeCpu(pid: number, procRoot = '/proc'): CpuReader {
  return { cpuSeconds: async () => treeTicks(pid, await readProcesses(procRoot)) / TICKS_PER_SECOND };
}

/**
 * The CPU time of a control group, version 1 or 2.
 * @param directory e.g. /sys/fs/cgroup/system.slice/docker-….scope (v2), /sys/fs/cgroup/cpuacct/docker/… (v1)
 * @returns a reader whose `cpuSeconds` throws BonsaiError `missing_file` if the folder holds neither file
 */
export function cgroupCpu(directory: string): CpuReader {
  return {
    async cpuSeconds() {
      const usage = /^usage_usec (\d+)$/m.exec((await readIfPresent(join(directory, 'cpu.stat'))) ?? '');
      if (usage !== null) return Number(usage[1]) / 1e6;
      const nanoseconds = await readIfPresent(join(directory, 'cpuacct.usage'));
      if (nanoseconds !== undefined) return Number(nanoseconds) / 1e9;
      throw new BonsaiError(
        'missing_file',
        `${directory} has neither cpu.stat with usage_usec (control groups v2) nor cpuacct.usage (v1).`,
      );
    },
  };
}

interface ProcessTimes {
  readonly parent: number;
  /** User and system time of the process and of its children that ended. */
  readonly ticks: number;
}

async function readProcesses(procRoot: string): Promise<Map<number, ProcessTimes>> {
  let names: string[];
  try {
    names = await readdir(procRoot);
  } catch (cause) {
    throw new BonsaiError(
      'unsupported',
      `CPU of a process can be read on Linux only: ${procRoot} is not there. Let the server report its CPU instead.`,
      { cause },
    );
  }
  const processes = new Map<number, ProcessTimes>();
  await Promise.all(
    names
      .filter((name) => /^\d+$/.test(name))
      .map(async (name) => {
        // A process may end between the listing and the reading.
        const stat = await readIfPresent(join(procRoot, name, 'stat'));
        if (stat !== undefined) processes.set(Number(name), parseStat(stat));
      }),
  );
  return processes;
}

/**
 * Fields of /proc/PID/stat (proc(5)): `pid (name) state ppid …`, where the name may hold spaces and parentheses,
 * so fields count from the last `)`. With field 3, the state, at index 0: ppid (4) is 1, utime (14) is 11,
 * stime 12, cutime 13, cstime 14.
 */
function parseStat(stat: string): ProcessTimes {
  const fields = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  return { parent: fields[1]!, ticks: fields[11]! + fields[12]! + fields[13]! + fields[14]! };
}

function treeTicks(root: number, processes: ReadonlyMap<number, ProcessTimes>): number {
  if (!processes.has(root)) throw new BonsaiError('server_unreachable', `There is no process ${root}.`);
  const children = new Map<number, number[]>();
  for (const [pid, { parent }] of processes) {
    const siblings = children.get(parent);
    if (siblings === undefined) children.set(parent, [pid]);
    else siblings.push(pid);
  }
  let ticks = 0;
  const pending = [root];
  for (let pid = pending.pop(); pid !== undefined; pid = pending.pop()) {
    ticks += processes.get(pid)!.ticks;
    pending.push(...(children.get(pid) ?? []));
  }
  return ticks;
}

async function readIfPresent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (['ENOENT', 'ESRCH', 'ENOTDIR'].includes(systemCodeOf(error) ?? '')) return undefined;
    throw error;
  }
}
