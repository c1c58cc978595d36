import { expect, test } from 'vitest';
import { probeBlockSize } from './probe-block.ts';

test('the block size is one that ONNX Runtime has, and the same each time it is asked', async () => {
  const block = await probeBlockSize();
  expect([1, 8, 16]).toContain(block);
  if (process.arch === 'x64') expect(block).toBeGreaterThan(1);
  expect(await probeBlockSize()).toBe(block);
});
