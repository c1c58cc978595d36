import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readCpuTicks, stolenRatio } from './stolen-cpu.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-stat-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function ticksOf(text: string) {
  const file = join(folder, 'stat');
  await writeFile(file, text);
  return readCpuTicks(file);
}

it('tells which share of CPU time the host gave to others', async () => {
  // user nice system idle iowait irq softirq steal, then guest times, which user time has in it.
  const before = await ticksOf('cpu  100 0 50 800 10 0 20 20 70 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nctxt 5\n');
  const after = await ticksOf('cpu  300 0 150 1300 10 0 40 100 90 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nctxt 5\n');
  expect(before).toEqual({ total: 1000, stolen: 20 });
  expect(stolenRatio(before, after)).toBeCloseTo(80 / 900, 12);
});

it('says nothing where the system does not', async () => {
  const known = await ticksOf('cpu  100 0 50 800 10 0 20 20 70 0\n');
  expect(await ticksOf('cpu  100 0 50 800\n')).toBeUndefined();
  expect(await readCpuTicks(join(folder, 'none'))).toBeUndefined();
  expect(stolenRatio(undefined, known)).toBeUndefined();
  expect(stolenRatio(known, known)).toBeUndefined();
});
