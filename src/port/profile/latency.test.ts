import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { writeModel, writeModelFile } from '../../graph/onnx/write.ts';
import { profileLatency, summarizeLatencies } from './latency.ts';

function relu(shape: readonly (number | string)[], dtype: 'float32' | 'int64' = 'float32') {
  const build = new GraphBuilder('relu');
  const x = build.input('x', dtype, shape);
  build.output(build.op(dtype === 'float32' ? 'Relu' : 'Identity', [x]), dtype, shape);
  return modelOf(build.finish());
}

test('as many runs as asked for are summarised, from bytes or from a file', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'bonsai-latency-'));
  try {
    const model = relu(['N', 3, 8, 8]);
    await writeModelFile(model, join(folder, 'model.onnx'));
    for (const source of [writeModel(model), join(folder, 'model.onnx')]) {
      const measured = await profileLatency(source, { runs: 50, warmup: 2 });
      expect(measured.count).toBe(50);
      expect(measured.min).toBeGreaterThan(0);
      expect(measured.min).toBeLessThanOrEqual(measured.median);
      expect(measured.p95).toBeGreaterThanOrEqual(measured.median);
      expect(measured.p99).toBeGreaterThanOrEqual(measured.p95);
      expect(measured.p99).toBeLessThanOrEqual(measured.max);
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('inputs of other types, and open sizes that the caller gives, can be profiled', async () => {
  await expect(profileLatency(writeModel(relu(['N', 4], 'int64')), { runs: 2 })).resolves.toMatchObject({
    count: 2,
  });
  const open = writeModel(relu(['N', 3, 'H', 'W']));
  await expect(profileLatency(open, { runs: 2 })).rejects.toMatchObject({ code: 'invalid_argument' });
  await expect(profileLatency(open, { runs: 2, shapes: { x: [1, 3, 4, 4] } })).resolves.toMatchObject({
    count: 2,
  });
});

test('what cannot be loaded, nonsense and an abort are typed errors', async () => {
  await expect(profileLatency(new Uint8Array([1, 2, 3]), { runs: 1 })).rejects.toMatchObject({
    code: 'load_failed',
  });
  await expect(profileLatency(new Uint8Array(), { runs: 0 })).rejects.toMatchObject({
    code: 'invalid_argument',
  });
  const signal = AbortSignal.abort();
  await expect(profileLatency(writeModel(relu(['N', 1])), { runs: 1, signal })).rejects.toMatchObject({
    code: 'aborted',
  });
});

test('location and spread are those of the sample', () => {
  // 1 … 5: mean 3, squares 4 + 1 + 0 + 1 + 4 = 10 over 4; 95 % of the way from 1 to 5 is 4.8.
  expect(summarizeLatencies([5, 1, 4, 2, 3])).toEqual({
    count: 5,
    mean: 3,
    median: 3,
    min: 1,
    max: 5,
    p95: expect.closeTo(4.8),
    p99: expect.closeTo(4.96),
    standardDeviation: expect.closeTo(Math.sqrt(2.5)),
  });
  expect(summarizeLatencies([7])).toMatchObject({ count: 1, p95: 7, standardDeviation: 0 });
});
