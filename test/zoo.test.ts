import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readModel } from '../src/graph/onnx/read.ts';
import type { Dataset } from '../src/port/data/data-module.ts';
import { dataModule } from '../src/port/data/registry.ts';
import { evaluate } from '../src/port/evaluate/evaluate.ts';

/** As the table of zoo/README.md tells it. */
const ZOO = [{ file: 'cifar10/resnet-wide.onnx', testAccuracy: 0.9018, validationAccuracy: 0.8992 }] as const;

const packed = join(process.env.BONSAI_SHARED ?? '../shared', 'data');
const hasData = existsSync(join(packed, 'cifar10/test_batch.bin.xz')) && hasXz();

function hasXz(): boolean {
  try {
    execFileSync('xz', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

describe.each(ZOO)('zoo/$file', ({ file, testAccuracy, validationAccuracy }) => {
  const model = readModel(readFileSync(join('zoo', file)));

  it('tells how it was made', () => {
    expect(JSON.parse(model.metadata.get('bonsai.training')!)).toMatchObject({
      dataset: 'cifar10',
      seed: 1,
      validationAccuracy,
    });
    expect(model.metadata.has('bonsai.backbone')).toBe(true);
  });

  describe.skipIf(!hasData)('on CIFAR-10', () => {
    let folder: string;
    let dataset: Dataset;
    beforeAll(async () => {
      folder = mkdtempSync(join(tmpdir(), 'bonsai-zoo-'));
      execFileSync(join(packed, 'unpack'), [folder]);
      const data = dataModule(`cifar10:${join(folder, 'cifar-10-batches-bin')}`);
      dataset = await data.load({ seed: 1 });
    }, 120_000);
    afterAll(() => rmSync(folder, { recursive: true, force: true }));

    it('is as accurate as the table says', async () => {
      const { accuracy, count } = await evaluate(model, dataset.test, { threads: 2 });
      expect(count).toBe(10_000);
      expect(Math.abs(accuracy - testAccuracy)).toBeLessThanOrEqual(0.0005);
    }, 300_000);
  });
});
