import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { readSealed, writeSealed } from './sealed-file.ts';

const folder = mkdtempSync(join(tmpdir(), 'bonsai-sealed-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it('reads back header and payload, and leaves no temporary file', async () => {
  const path = join(folder, 'deep', 'file');
  await writeSealed(path, { né: 1 }, [Uint8Array.of(1, 2), new Uint8Array(0), Uint8Array.of(3)]);
  const read = await readSealed(path);
  expect(read).toMatchObject({ kind: 'intact', header: { né: 1 } });
  expect(read.kind === 'intact' && [...read.payload]).toEqual([1, 2, 3]);
  expect(readdirSync(join(folder, 'deep'))).toEqual(['file']);
});

it('notices every flipped byte and every missing end', async () => {
  const path = join(folder, 'broken');
  await writeSealed(path, 'head', [Uint8Array.of(1, 2, 3)]);
  const whole = readFileSync(path);
  for (let i = 0; i < whole.length; i++) {
    const flipped = Buffer.from(whole);
    flipped[i]! ^= 0x10;
    writeFileSync(path, flipped);
    expect((await readSealed(path)).kind).toBe('damaged');
    writeFileSync(path, whole.subarray(0, i));
    expect((await readSealed(path)).kind).toBe('damaged');
  }
});

it('tells a missing file from a damaged one', async () => {
  expect(await readSealed(join(folder, 'none'))).toEqual({ kind: 'missing' });
});
