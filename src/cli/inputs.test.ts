import { expect, it } from 'vitest';
import type { Dataset } from '../port/data/data-module.ts';
import { MANIFEST_SCHEMA_VERSION } from '../repository/types.ts';
import { labelledInputs } from './inputs.ts';

const split = {
  count: 10,
  images: Uint8Array.from({ length: 40 }, (_, i) => Math.floor(i / 4)),
  labels: Uint8Array.of(0, 0, 0, 0, 0, 1, 1, 1, 1, 1),
};
const dataset: Dataset = {
  ...{ name: 'tiny', classes: ['a', 'b'], shape: [1, 2, 2], normalization: { mean: [0], std: [1] } },
  ...{ train: split, validation: split, test: split },
};
const task = {
  ...{ schemaVersion: MANIFEST_SCHEMA_VERSION, task: 'tiny', variants: [] },
  inputs: [{ name: 'image', dtype: 'float32', shape: [-1, 1, 2, 2] }],
  outputs: [{ name: 'logits', dtype: 'float32', shape: [-1, 2] }],
} as const;

it('gives all examples, or evenly spaced ones that fit into the memory allowed', async () => {
  const all = await labelledInputs(dataset, split, task);
  expect([...(all.labels as Uint8Array)]).toEqual([...split.labels]);
  expect(all.bytes.length).toBe(10 * 16);
  // Four floats each: 64 bytes hold four examples, 0, 2, 5 and 7.
  const some = await labelledInputs(dataset, split, task, 64);
  expect([...(some.labels as Uint8Array)]).toEqual([0, 0, 1, 1]);
  const pixels = new Float32Array(some.bytes.buffer, some.bytes.byteOffset, 16);
  expect([0, 4, 8, 12].map((i) => Math.round(pixels[i]! * 255))).toEqual([0, 2, 5, 7]);
});

it('refuses images of another size than the task takes', async () => {
  const other = { ...task, inputs: [{ ...task.inputs[0], shape: [-1, 1, 3, 3] }] };
  await expect(labelledInputs(dataset, split, other)).rejects.toThrow(/\[1, 2, 2\]; the task "tiny" takes/);
});
