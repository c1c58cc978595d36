import { expect, test } from 'vitest';
import { writeModel } from '../../graph/onnx/write.ts';
import { randomNetwork } from '../../transform/prune/networks.fixture.ts';
import { compareLatency } from './compare-latency.ts';

const networks = [['conv'], ['conv', 'residual']] as const;
const models = networks.map((layers) => writeModel(randomNetwork(layers, 'gap', 1)));

test('every network gets its own measurement, in the order given', async () => {
  const measured = await compareLatency([...models, models[0]!], { runs: 7, warmup: 1 });
  expect(measured).toHaveLength(3);
  for (const { count, min, median, max } of measured) {
    expect(count).toBe(7);
    expect(min).toBeGreaterThan(0);
    expect(median).toBeGreaterThanOrEqual(min);
    expect(max).toBeGreaterThanOrEqual(median);
  }
});

test('no networks, no runs, bytes that are no network and an abort are typed errors', async () => {
  await expect(compareLatency([])).rejects.toMatchObject({ code: 'invalid_argument' });
  await expect(compareLatency(models, { runs: 0 })).rejects.toMatchObject({ code: 'invalid_argument' });
  await expect(compareLatency([Uint8Array.of(1)])).rejects.toMatchObject({ code: 'load_failed' });
  await expect(compareLatency(models, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'aborted',
  });
});
