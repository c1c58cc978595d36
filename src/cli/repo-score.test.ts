import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { writeModel } from '../graph/onnx/write.ts';
import { backbone } from '../port/backbones/registry.ts';
import { mnistPackage } from '../port/data/mnist-package.ts';
import { evaluate } from '../port/evaluate/evaluate.ts';
import { digestOf } from '../repository/digest.ts';
import { writeTask } from '../repository/store.ts';
import { MANIFEST_SCHEMA_VERSION } from '../repository/types.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-repo-score-'));
});
afterAll(() => rm(folder, { recursive: true }));

function score(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const all = [main, 'repo', 'score', 'models', 'digits', '--data', 'mnist', ...args];
  return new Promise((resolve) => {
    execFile(process.execPath, all, { cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

it('tells which versions have the accuracy that the repository records', async () => {
  const dataset = await mnistPackage().load({ seed: 1 });
  const [side] = dataset.shape.slice(1);
  const networks = new Map(
    [1, 2].map((seed) => {
      const target = { inputShape: dataset.shape, classes: 10, normalization: dataset.normalization, seed };
      return [seed, writeModel(backbone('resnet:widths=4,blocks=1').build(target))];
    }),
  );
  const first = await evaluate(networks.get(1)!, dataset.test);
  const second = await evaluate(networks.get(2)!, dataset.test);
  const tensor = { dtype: 'float32' } as const;
  await writeTask(
    join(folder, 'models'),
    {
      schemaVersion: MANIFEST_SCHEMA_VERSION,
      task: 'digits',
      inputs: [{ name: 'image', ...tensor, shape: [-1, 1, side!, side!] }],
      outputs: [{ name: 'logits', ...tensor, shape: [-1, 10] }],
      variants: [first.accuracy, second.accuracy + 0.002].map((test, i) => ({
        version: i + 1,
        digest: digestOf(networks.get(i + 1)!),
        sizeBytes: networks.get(i + 1)!.byteLength,
        accuracy: { test, testCount: dataset.test.count },
        macs: 0,
        parameters: 0,
        lineage: {},
        profiles: {},
      })),
    },
    networks,
  );

  const strict = await score('--json');
  expect(JSON.parse(strict.stdout)).toEqual([
    { version: 1, measured: first.accuracy, recorded: first.accuracy, ok: true },
    { version: 2, measured: second.accuracy, recorded: second.accuracy + 0.002, ok: false },
  ]);
  expect(strict.stderr).toMatch(/1 of 2 versions of digits do not have the accuracy/);
  expect(strict.code).toBe(1);

  const tolerant = await score('--tolerance', '0.01');
  expect(tolerant.stdout).toMatch(/^1 .* ok\n2 .* ok$/m);
  expect(tolerant.code).toBe(0);
}, 180_000);
