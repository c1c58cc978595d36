import { spawnSync } from 'node:child_process';
import { availableParallelism, cpus } from 'node:os';
import { availableCores, slotsOf } from '../../serve/cpu-budget.ts';
import { mayRaisePriority } from '../../serve/pinning.ts';
import { existingCpus } from '../cpus.ts';
import type { Finding } from './finding.ts';
import { readIfThere } from './proc.ts';

/** What of the instruction set decides how fast networks compute here: vectors, and products of 8-bit integers. */
export function checkInstructions(
  architecture: string = process.arch,
  cpuInfo: string | undefined = readIfThere('/proc/cpuinfo'),
  model: string = cpus()[0]?.model.trim() ?? '',
): Finding {
  const name = 'CPU';
  const title = `${model === '' ? 'unknown model' : model} (${architecture})`;
  const flags = new Set(/^(?:flags|Features)\s*:\s*(.*)$/m.exec(cpuInfo ?? '')?.[1]?.split(' '));
  if (flags.size === 0)
    return { name, status: 'ok', found: `${title}; the system does not tell its features` };
  const table = FEATURES[architecture] ?? [];
  const has = ({ flags: any }: Feature) => any.some((flag) => flags.has(flag));
  const found = `${title}: ${table.map((feature) => (has(feature) ? feature.name : `no ${feature.name}`)).join(', ')}`;
  const missing = table.filter((feature) => !has(feature));
  const advice = missing.flatMap(({ without = [] }) => without).join(' ');
  return {
    name,
    status: missing.some(({ isVital }) => isVital) ? 'warn' : 'ok',
    found,
    ...(advice !== '' && { advice }),
  };
}

interface Feature {
  readonly name: string;
  /** Any of these in /proc/cpuinfo means that it is there. */
  readonly flags: readonly string[];
  /** What its absence means, and what to do. */
  readonly without?: string;
  /** Without it the engine runs at a fraction of its speed. */
  readonly isVital?: boolean;
}

const NO_DOT_PRODUCT =
  'INT8 networks may be slower than those they were made from: measure before you serve them.';

const FEATURES: Readonly<Record<string, readonly Feature[]>> = {
  x64: [
    {
      name: 'AVX2',
      flags: ['avx2'],
      without:
        'Without AVX2, ONNX Runtime computes with short vectors and no blocked layout: if this is a virtual machine, let it pass the CPU of its host through.',
      isVital: true,
    },
    { name: 'AVX-512', flags: ['avx512f'] },
    { name: 'VNNI', flags: ['avx512_vnni', 'avx_vnni'], without: NO_DOT_PRODUCT },
  ],
  arm64: [
    {
      name: 'NEON',
      flags: ['asimd'],
      without: 'Without NEON, inference is many times slower.',
      isVital: true,
    },
    { name: 'dot product', flags: ['asimddp'], without: NO_DOT_PRODUCT },
  ],
};

/** How many CPUs there are, and how many of them the affinity and the quota of the control group leave. */
export function checkCpuBudget(
  existing: number = existingCpus().length,
  affinity: number = availableParallelism(),
  budget: number = availableCores(undefined, affinity),
): Finding {
  const name = 'CPU budget';
  const shares = [`${existing} in the machine`];
  if (affinity < existing) shares.push(`${affinity} by affinity`);
  if (budget < affinity) shares.push(`${budget} by the quota of the control group`);
  const found = `${budget} ${budget === 1 ? 'CPU' : 'CPUs'} (${shares.join(', ')}): ${slotsOf(budget, 1)} inferences at a time`;
  if (budget >= 1 && Number.isInteger(budget)) return { name, status: 'ok', found };
  return {
    name,
    status: 'warn',
    found,
    advice:
      budget < 1
        ? 'Less than one CPU: whoever computes is stopped for the rest of each period, which shows as late answers. Give it a whole CPU, or let `bonsai serve --cpu-quota`, a little below, rest between inferences.'
        : 'The quota is no whole number: its fraction lies idle. Give it whole CPUs, best by affinity (cpuset), or name the quota to `bonsai serve --cpu-quota`, which uses the fraction.',
  };
}

/** Whether threads may load at low priority and serve at normal priority. */
export function checkPriority(isPrivileged: boolean = mayRaisePriority()): Finding {
  const name = 'priorities';
  if (isPrivileged) {
    return { name, status: 'ok', found: 'a thread may be raised again after it loaded at low priority' };
  }
  return {
    name,
    status: 'warn',
    found:
      'a thread that loads at low priority cannot be raised again, so networks are first optimised into files',
    advice:
      'Versions switch all the same, only later. To allow it: LimitNICE=+0 in a systemd unit, "nice 0" in /etc/security/limits.conf, or the capability SYS_NICE for a container.',
  };
}

/** Whether the server can be bound to CPUs, which `--cpus` does by `taskset`. */
export function checkPinning(isLinux: boolean = process.platform === 'linux'): Finding {
  const name = 'pinning';
  if (!isLinux) return { name, status: 'ok', found: 'not on this system: --cpus only counts CPUs' };
  const { error } = spawnSync('taskset', ['--version'], { stdio: 'ignore' });
  if (error === undefined) return { name, status: 'ok', found: 'taskset is there' };
  return {
    name,
    status: 'warn',
    found: 'there is no taskset, so --cpus binds nothing',
    advice: 'Install it (Debian: apt-get install util-linux).',
  };
}
