import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { writeConstantFamily } from '../../test/constant-family.fixture.ts';
import type { Context } from './context.ts';
import { readFleetFile } from './fleet-file.ts';
import { membersOf, watchTasks } from './orchestrate-fleet.ts';
import { silentProgress } from './progress.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-fleet-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

it('reads anew what the repository says of the tasks, and tells what is wrong with it until it is mended', async () => {
  let nowMs = 0;
  const context: Context = {
    clock: { nowMs: () => nowMs, epochMs: () => nowMs },
    progress: silentProgress,
    signal: new AbortController().signal,
    json: false,
    result: () => undefined,
  };
  await writeConstantFamily(join(folder, 'models'), 'digits', [[0.9, 10]]);
  const path = join(folder, 'fleet.yaml');
  await writeFile(path, 'repository: models\nservers: [{ url: "http://127.0.0.1:8000" }]\n');
  const file = await readFleetFile(path);
  const { members } = await membersOf(file, context);
  const watched = watchTasks({ file, members }, context);
  const versions = async () => {
    const next = await watched.next();
    return next?.tasks.flatMap(({ manifest }) => manifest.variants.map(({ version }) => version));
  };
  await writeConstantFamily(join(folder, 'models'), 'digits', [
    [0.9, 10],
    [0.8, 20],
  ]);
  expect(await versions()).toBeUndefined();
  nowMs += 15_000;
  await vi.waitFor(async () => expect(await versions()).toEqual([1, 2]));
  nowMs += 15_000;
  for (let i = 0; i < 20; i++) expect(await versions()).toBeUndefined();
  const manifest = join(folder, 'models', 'digits', 'bonsai.json');
  await writeFile(manifest, '{');
  nowMs += 15_000;
  await vi.waitFor(() => expect(versions()).rejects.toThrow(/bonsai\.json/));
  await writeConstantFamily(join(folder, 'models'), 'digits', [[0.7, 10]]);
  nowMs += 15_000;
  await vi.waitFor(async () => expect(await versions()).toEqual([1]));
});
