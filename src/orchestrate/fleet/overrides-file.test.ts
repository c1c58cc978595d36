import { mkdtemp, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../../base/clock.ts';
import { withDrained, withTaskOverride } from './overrides.ts';
import { changeFleetOverrides, followFleetOverrides, readFleetOverrides } from './overrides-file.ts';

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-overrides-'));
  path = join(folder, 'state.overrides');
});
afterEach(() => rm(folder, { recursive: true, force: true }));

test('changes are kept, one after another where several come at once', async () => {
  const names = Array.from({ length: 12 }, (_, i) => `edge-${i}`);
  await Promise.all(
    names.map((name) => changeFleetOverrides(path, (before) => withDrained(before, name, true), systemClock)),
  );
  await changeFleetOverrides(path, (before) => withTaskOverride(before, 'a', { sloMs: 80 }), systemClock);
  await changeFleetOverrides(path, (before) => withTaskOverride(before, 'a', { version: 2 }), systemClock);
  await changeFleetOverrides(path, (before) => withDrained(before, 'edge-3', false), systemClock);
  expect(await readFleetOverrides(path)).toEqual({
    tasks: { a: { version: 2, sloMs: 80 } },
    drained: names.filter((name) => name !== 'edge-3').sort(),
  });
});

test('who follows them sees every change, and nothing where there is no file', async () => {
  const follow = followFleetOverrides(path);
  expect(await follow()).toEqual({ tasks: {}, drained: [] });
  await changeFleetOverrides(path, (before) => withDrained(before, 'x', true), systemClock);
  expect((await follow()).drained).toEqual(['x']);
  await changeFleetOverrides(path, (before) => withDrained(before, 'y', true), systemClock);
  expect((await follow()).drained).toEqual(['x', 'y']);
  await rm(path);
  expect((await follow()).drained).toEqual([]);
});

test('a lock that a crash left is taken away', async () => {
  await writeFile(`${path}.lock`, '');
  await utimes(`${path}.lock`, 1, 1);
  await changeFleetOverrides(path, (before) => withDrained(before, 'x', true), systemClock);
  expect((await readFleetOverrides(path)).drained).toEqual(['x']);
});

test.each([
  'no JSON',
  '[]',
  '{"tasks":{}}',
  '{"tasks":{"a":{"version":0}},"drained":[]}',
  '{"tasks":{"a":{"sloMs":"80"}},"drained":[]}',
  '{"tasks":{},"drained":[1]}',
])('a file that is not understood is refused, not overwritten: %s', async (text) => {
  await writeFile(path, text);
  await expect(readFleetOverrides(path)).rejects.toMatchObject({ code: 'invalid_config' });
  await expect(changeFleetOverrides(path, (before) => before, systemClock)).rejects.toMatchObject({
    code: 'invalid_config',
  });
});
