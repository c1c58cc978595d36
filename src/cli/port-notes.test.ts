import { expect, it } from 'vitest';
import type { Variant } from '../repository/types.ts';
import { portNotes } from './port-notes.ts';

const inputs = [{ name: 'pixels', dtype: 'float32', shape: [-1, 3, 32, 32] }] as const;

function variant(version: number, test: number, epochs?: number): Variant {
  const pruning = { criterion: 'l2', scope: 'uniform', ratio: 0.5, align: 8 } as const;
  return {
    ...{ version, digest: `${version}`, sizeBytes: 1, macs: 1, parameters: 1, profiles: {} },
    accuracy: { test, testCount: 100 },
    lineage: epochs === undefined ? {} : { parent: '1', epochs, pruning },
  };
}

it('says what requests carry, and no more where all variants are good', () => {
  expect(portNotes({ inputs, variants: [variant(1, 0.9), variant(2, 0.75, 3)] })).toEqual([
    'Requests carry "pixels", [N, 3, 32, 32] as FP32: pixels in [0, 1], channel by channel.',
  ]);
});

it('names variants that are far below their base, and what may help', () => {
  const variants = [variant(1, 0.915), variant(2, 0.86, 1), variant(3, 0.351, 1), variant(4, 0.347, 1)];
  const [, note] = portNotes({ inputs, variants });
  expect(note).toMatch(
    /below their base: 3 \(56 points\), 4 \(57 points\), after 1 epoch of fine-tuning\..*--epochs 3/,
  );
});
