import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { seededRandom } from '../src/base/random.ts';
import { readModel } from '../src/graph/onnx/read.ts';
import type { Dataset } from '../src/port/data/data-module.ts';
import { dataModule } from '../src/port/data/registry.ts';
import { drawExamples } from '../src/port/data/split.ts';
import { evaluate } from '../src/port/evaluate/evaluate.ts';
import { LINEAGE_KEY } from '../src/port/pipeline/steps.ts';
import { listTasks, modelPathOf, readManifest } from '../src/repository/store.ts';
import type { TaskManifest } from '../src/repository/types.ts';

const REPOSITORY = 'zoo/models';
/** Other kernels than those of the machine that scored first round differently. */
const TOLERANCE = 0.0005;
/** Where `unpack` puts the data of each task. */
const DATA: Readonly<Record<string, (folder: string) => string>> = {
  cifar10: (folder) => `cifar10:${join(folder, 'cifar-10-batches-bin')}`,
  cifar100: (folder) => `cifar100:${join(folder, 'cifar-100-binary')}`,
  hymenoptera: (folder) => `images:${join(folder, 'hymenoptera')},size=48`,
  mnist: (folder) => `mnist:${join(folder, 'mnist')}`,
};
/** All test images for all networks, which takes minutes: `npm run test:zoo`. */
const isWhole = process.env.BONSAI_ZOO === 'whole';
/** Otherwise networks of more multiply-accumulates are scored on a part of the test images. */
const MOST_MACS = isWhole ? Number.POSITIVE_INFINITY : 10e6;
/** Of that part. */
const PART = 1000;
/** Standard deviations of what a part of that size shows. */
const PART_DEVIATIONS = 4;

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

let folder: string;
beforeAll(() => {
  if (!hasData) return;
  folder = mkdtempSync(join(tmpdir(), 'bonsai-zoo-'));
  execFileSync(join(packed, 'unpack'), [folder]);
}, 120_000);
afterAll(() => {
  if (hasData) rmSync(folder, { recursive: true, force: true });
});

const loaded = new Map<string, Promise<Dataset>>();
function datasetOf(task: string): Promise<Dataset> {
  const known = loaded.get(task) ?? dataModule(DATA[task]!(folder)).load({ seed: 1 });
  loaded.set(task, known);
  return known;
}

const manifests: TaskManifest[] = await Promise.all(
  (existsSync(REPOSITORY) ? await listTasks(REPOSITORY) : []).map((task) => readManifest(REPOSITORY, task)),
);

describe.each(manifests)('zoo/models/$task', ({ task, variants }) => {
  describe.each(variants)('version $version', ({ version, lineage, accuracy, macs }) => {
    const model = readModel(readFileSync(modelPathOf(REPOSITORY, task, version)));

    it('carries its lineage and accuracy', () => {
      expect(JSON.parse(model.metadata.get(LINEAGE_KEY)!)).toEqual({ ...lineage, accuracy });
      if (lineage.parent === undefined)
        expect(JSON.parse(model.metadata.get('bonsai.training')!)).toMatchObject({ seed: 1 });
    });

    it.skipIf(!hasData)(
      'is as accurate as the repository says',
      async () => {
        const { test } = await datasetOf(task);
        const isLarge = macs > MOST_MACS;
        const images = isLarge ? drawExamples(test, PART, seededRandom(1)) : test;
        const measured = await evaluate(model, images, { threads: 2 });
        if (!isLarge) expect(measured.count).toBe(accuracy.testCount);
        const deviation = Math.sqrt((accuracy.test * (1 - accuracy.test)) / PART);
        expect(Math.abs(measured.accuracy - accuracy.test)).toBeLessThanOrEqual(
          isLarge ? PART_DEVIATIONS * deviation : TOLERANCE,
        );
      },
      300_000,
    );
  });
});
