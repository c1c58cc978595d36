import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../base/clock.ts';
import { seededRandom } from '../../base/random.ts';
import type { InferAnswer, InferRequest } from '../data-plane.ts';
import { SampleSpool } from './sample-spool.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-spool-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

function openSpool(limitBytes: number): Promise<SampleSpool> {
  const logger = pino({ level: 'silent' });
  const random = seededRandom(1);
  return SampleSpool.open({ folder, limitBytes, below: 1, fraction: 1, clock: systemClock, random, logger });
}

/** Of 3,000 bytes each, 4,000 as text. */
function offer(spool: SampleSpool, count: number): void {
  const tensor = { name: 'x', dtype: 'uint8', shape: [1, 3_000], bytes: new Uint8Array(3_000) };
  // What the spool reads of them.
  const request = { inputs: [tensor], model: { name: 'digits' } } as unknown as InferRequest;
  const answer = { version: 1 } as InferAnswer;
  for (let i = 0; i < count; i++) spool.offer(request, answer, [{ class: 3, confidence: 0.5 }]);
}

describe('samples that wait on the disk', () => {
  it('are the newest that fit, also where more come at once than may be kept', async () => {
    const spool = await openSpool(200_000);
    offer(spool, 150);
    await spool.flush();
    const { kept, droppedOld, droppedBusy, bytes } = spool.counts;
    expect([kept, droppedBusy]).toEqual([150, 0]);
    expect(bytes).toBeGreaterThan(100_000);
    expect(bytes).toBeLessThanOrEqual(200_000);
    const files = await spool.files();
    expect(files.reduce((sum, { samples }) => sum + samples, 0)).toBe(150 - droppedOld);
    for (const { name, samples } of files)
      expect(
        Buffer.from(await spool.read(name))
          .toString('utf8')
          .trimEnd()
          .split('\n'),
      ).toHaveLength(samples);
  });

  it('are counted where they cannot be written', async () => {
    const spool = await openSpool(200_000);
    await rm(folder, { recursive: true });
    offer(spool, 3);
    await writeFile(folder, ''); // A file where the folder was.
    await spool.flush();
    expect(spool.counts).toMatchObject({ kept: 0, droppedUnwritten: 3, droppedBusy: 0 });
  });
});
