import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readModel } from '../src/graph/onnx/read.ts';
import type { Dataset } from '../src/port/data/data-module.ts';
import { dataModule } from '../src/port/data/registry.ts';
import { evaluate } from '../src/port/evaluate/evaluate.ts';
import { LINEAGE_KEY } from '../src/port/pipeline/steps.ts';
import { listTasks, modelPathOf, readManifest } from '../src/repository/store.ts';
import type { TaskManifest } from '../src/repository/types.ts';

/** As the table of zoo/README.md tells it. */
const BASES = [
  { file: 'mnist-resnet.onnx', testAccuracy: 0.9949 },
  { file: 'mnist-densenet.onnx', testAccuracy: 0.9935 },
  { file: 'cifar10-resnet-wide.onnx', testAccuracy: 0.9018, validationAccuracy: 0.8992 },
  { file: 'cifar10-densenet-medium.onnx', testAccuracy: 0.8807, validationAccuracy: 0.8888 },
  { file: 'cifar10-densenet-wide.onnx', testAccuracy: 0.8565 },
] as const;
const REPOSITORY = 'zoo/models';
/** Other kernels than those of the machine that scored first round differently. */
const TOLERANCE = 0.0005;
/** Where `unpack` puts the data of each task. */
const DATA: Readonly<Record<string, (folder: string) => string>> = {
  cifar10: (folder) => `cifar10:${join(folder, 'cifar-10-batches-bin')}`,
  cifar100: (folder) => `cifar100:${join(folder, 'cifar-100-binary')}`,
  mnist: (folder) => `mnist:${join(folder, 'mnist')}`,
};

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

describe.each(BASES)('zoo/bases/$file', ({ file, testAccuracy, ...told }) => {
  const model = readModel(readFileSync(join('zoo/bases', file)));
  const task = file.slice(0, file.indexOf('-'));

  it('tells how it was made', () => {
    expect(JSON.parse(model.metadata.get('bonsai.training')!)).toMatchObject({
      dataset: task,
      seed: 1,
      ...told,
    });
    expect(model.metadata.has('bonsai.backbone')).toBe(true);
  });

  it.skipIf(!hasData)(
    'is as accurate as the table says',
    async () => {
      const { test } = await datasetOf(task);
      const { accuracy, count } = await evaluate(model, test, { threads: 2 });
      expect(count).toBe(10_000);
      expect(Math.abs(accuracy - testAccuracy)).toBeLessThanOrEqual(TOLERANCE);
    },
    300_000,
  );
});

const manifests: TaskManifest[] = await Promise.all(
  (existsSync(REPOSITORY) ? await listTasks(REPOSITORY) : []).map((task) => readManifest(REPOSITORY, task)),
);

describe.each(manifests)('zoo/models/$task', ({ task, variants }) => {
  describe.each(variants)('version $version', ({ version, lineage, accuracy }) => {
    const model = readModel(readFileSync(modelPathOf(REPOSITORY, task, version)));

    it('carries its lineage and accuracy', () => {
      expect(JSON.parse(model.metadata.get(LINEAGE_KEY)!)).toEqual({ ...lineage, accuracy });
    });

    it.skipIf(!hasData)(
      'is as accurate as the repository says',
      async () => {
        const { test } = await datasetOf(task);
        const measured = await evaluate(model, test, { threads: 2 });
        expect(measured.count).toBe(accuracy.testCount);
        expect(Math.abs(measured.accuracy - accuracy.test)).toBeLessThanOrEqual(TOLERANCE);
      },
      300_000,
    );
  });
});
