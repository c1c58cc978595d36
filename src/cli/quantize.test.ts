import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readModelFile } from '../graph/onnx/read.ts';
import { writeModelFile } from '../graph/onnx/write.ts';
import { backbone } from '../port/backbones/registry.ts';
import { QUANTIZATION_KEY } from '../port/calibrate/quantize-network.ts';
import { digestOf } from '../repository/digest.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-quantize-'));
  const network = backbone('resnet:widths=8-16,blocks=1-1').build({
    inputShape: [1, 28, 28],
    classes: 10,
    normalization: { mean: [0.13], std: [0.31] },
    seed: 1,
  });
  await writeModelFile(network, join(folder, 'digits.onnx'));
});
afterAll(() => rm(folder, { recursive: true }));

function bonsai(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], { cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

const QUICK = ['--data', 'mnist', '--samples', '16', '--runs', '10'];

it('writes the network in integers, says what changed, and notes how it was made', async () => {
  const { code, stdout, stderr } = await bonsai(
    ...['quantize', 'digits.onnx', ...QUICK, '--out', 'small.onnx', '--method', 'entropy', '--json'],
  );
  expect(stderr).not.toContain('bonsai:');
  expect(code).toBe(0);
  const result = JSON.parse(stdout);
  const parent = digestOf(await readFile(join(folder, 'digits.onnx')));
  expect(result).toMatchObject({
    file: 'digits.onnx',
    out: 'small.onnx',
    accuracy: { before: expect.any(Number), after: expect.any(Number) },
    latencyMs: { before: { count: 10 }, after: { count: 10 } },
    quantization: { method: 'entropy', samples: 16, seed: 1, parent },
  });
  expect(result.sizeBytes.after).toBe((await readFile(join(folder, 'small.onnx'))).byteLength);
  const written = await readModelFile(join(folder, 'small.onnx'));
  expect(JSON.parse(written.metadata.get(QUANTIZATION_KEY)!)).toEqual(result.quantization);
  expect(result.speedup).toBeCloseTo(result.latencyMs.before.median / result.latencyMs.after.median, 9);
});

it('says in plain words whether integers pay', async () => {
  const { stdout } = await bonsai('quantize', 'digits.onnx', ...QUICK, '--out', 'again.onnx');
  expect(stdout).toMatch(/accuracy/);
  expect(stdout).toMatch(/times as fast as its float parent|kept, but slower than its float parent: /);
});

it('refuses nodes that do not exist, and networks that are quantised already, before any long work', async () => {
  const unknown = await bonsai('quantize', 'digits.onnx', ...QUICK, '--out', 'x.onnx', '--exclude', 'nobody');
  expect(unknown.code).toBe(2);
  // Alone: no data were loaded and nothing was calibrated before it.
  expect(unknown.stderr).toMatch(/^bonsai: .*No node is called "nobody"/);
  const twice = await bonsai('quantize', 'small.onnx', ...QUICK, '--out', 'x.onnx');
  expect(twice.code).toBe(2);
  expect(twice.stderr).toMatch(/^bonsai: .*quantised already/);
  // Where the data lie does not matter yet: nothing is loaded.
  const half = ['--method', 'percentile', '--percentile', '50', '--data', 'cifar10:nowhere'];
  const low = await bonsai('quantize', 'digits.onnx', ...QUICK, ...half, '--out', 'x.onnx');
  expect(low.code).toBe(2);
  expect(low.stderr).toMatch(/a percentage above 50, up to 100, .*got "50"/);
  const idle = await bonsai('quantize', 'digits.onnx', ...QUICK, '--out', 'x.onnx', '--percentile', '99');
  expect(idle.stderr).toMatch(/^bonsai: .*--percentile does something only with --method percentile/);
  expect(idle.code).toBe(2);
});
