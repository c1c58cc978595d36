import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cgroupCpu, processTreeCpu, TICKS_PER_SECOND } from './process-cpu.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-cpu-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function writeStat(pid: number, name: string, parent: number, times: readonly number[]): Promise<void> {
  await mkdir(join(folder, String(pid)));
  const zeros = '0 '.repeat(9); // Fields 5 to 13.
  await writeFile(
    join(folder, String(pid), 'stat'),
    `${pid} (${name}) S ${parent} ${zeros}${times.join(' ')} 20 0 1 0\n`,
  );
}

test('the times of a process, its ended children and its descendants add up', async () => {
  await writeStat(10, 'server', 1, [100, 20, 3, 4]);
  await writeStat(11, 'odd) S 99 (name', 10, [50, 0, 0, 0]);
  await writeStat(12, 'grandchild', 11, [7, 0, 0, 0]);
  await writeStat(13, 'stranger', 1, [9000, 0, 0, 0]);
  await mkdir(join(folder, '14')); // Ended between listing and reading.
  // (100 + 20 + 3 + 4) + 50 + 7 = 184 ticks.
  expect(await processTreeCpu(10, folder).cpuSeconds()).toBe(1.84);
});

test('a process that is gone and a missing procfs have their own errors', async () => {
  await expect(processTreeCpu(10, folder).cpuSeconds()).rejects.toMatchObject({ code: 'server_unreachable' });
  const noProc = processTreeCpu(10, join(folder, 'none')).cpuSeconds();
  await expect(noProc).rejects.toMatchObject({ code: 'unsupported' });
});

test.runIf(existsSync('/proc/self/stat'))('it agrees with what the process knows of itself', async () => {
  const used = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  };
  const before = used();
  const read = await processTreeCpu(process.pid).cpuSeconds();
  // User and system time are each cut to whole ticks; children of this process only add.
  expect(read).toBeGreaterThanOrEqual(before - 2 / TICKS_PER_SECOND);
});

test('control groups are read in both versions', async () => {
  await expect(cgroupCpu(folder).cpuSeconds()).rejects.toMatchObject({ code: 'missing_file' });
  await writeFile(join(folder, 'cpuacct.usage'), '2500000000\n');
  expect(await cgroupCpu(folder).cpuSeconds()).toBe(2.5);
  await writeFile(join(folder, 'cpu.stat'), 'usage_usec 1250000\nuser_usec 1000000\nsystem_usec 250000\n');
  expect(await cgroupCpu(folder).cpuSeconds()).toBe(1.25);
});
