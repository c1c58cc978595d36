import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { float32Tensor } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { writeModelFile } from '../../graph/onnx/write.ts';
import { profileMemory } from './memory.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-memory-'));
});
afterAll(() => rm(folder, { recursive: true }));

/** y = x · W with W of size × size: 4 · size² bytes of weights that no optimisation can drop. */
async function product(size: number): Promise<string> {
  const path = join(folder, `${size}.onnx`);
  const b = new GraphBuilder('product');
  const weights = Float32Array.from({ length: size * size }, (_, i) => (i % 7) - 3);
  const x = b.input('x', 'float32', ['N', size]);
  b.output(b.op('MatMul', [x, b.constant(float32Tensor([size, size], weights))]), 'float32', ['N', size]);
  await writeModelFile(modelOf(b.finish()), path);
  return path;
}

test('a network counts with its weights, whatever the engine takes for itself', async () => {
  const small = await profileMemory(await product(16), { repeats: 1, runs: 2 });
  const weightBytes = 4 * 2048 ** 2;
  const large = await profileMemory(await product(2048), { repeats: 2, runs: 2 });
  expect(large.count).toBe(2);
  // The file's bytes, the session's weights, and at most some copies that packing makes.
  expect(large.median - small.median).toBeGreaterThan(weightBytes);
  expect(large.median).toBeLessThan(6 * weightBytes);
  expect(small.median).toBeLessThan(weightBytes);
});

test('what cannot be loaded, nonsense and an abort are typed errors', async () => {
  const broken = join(folder, 'broken.onnx');
  await writeFile(broken, 'no network');
  await expect(profileMemory(broken)).rejects.toMatchObject({ code: 'load_failed' });
  await expect(profileMemory(broken, { repeats: 0 })).rejects.toMatchObject({ code: 'invalid_argument' });
  const path = await product(16);
  await expect(profileMemory(path, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'aborted',
  });
  const abort = new AbortController();
  const measuring = profileMemory(path, { repeats: 1000, signal: abort.signal });
  setImmediate(() => abort.abort());
  await expect(measuring).rejects.toMatchObject({ code: 'aborted' });
});
