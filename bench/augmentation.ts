import { seededRandom } from '../src/base/random.ts';
import type { Augmentation } from '../src/port/data/augmentation.ts';
import { batchOf } from '../src/port/data/batch.ts';

/**
 * Milliseconds that a batch of 64 CIFAR-sized images costs, by augmentation: minimum and median of 200 rounds, in
 * which the augmentations take turns. Run:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/augmentation.js
 */
const ROUNDS = 200;
const BATCH = 64;
const SHAPE = [3, 32, 32] as const;
const CASES: Readonly<Record<string, Augmentation | undefined>> = {
  none: undefined,
  'shift=4': { shiftPixels: 4 },
  'shift=4,flip': { shiftPixels: 4, flip: true },
  'shift=4,flip,cutout=8': { shiftPixels: 4, flip: true, cutoutPixels: 8 },
  'shift=4,flip,cutout=8,brightness=0.2,contrast=0.2': {
    ...{ shiftPixels: 4, flip: true, cutoutPixels: 8 },
    ...{ brightnessRatio: 0.2, contrastRatio: 0.2 },
  },
  'crop=0.4,flip': { cropAreaRatio: 0.4, flip: true },
  'shift=2,rotate=10,scale=0.1': { shiftPixels: 2, rotateDegrees: 10, scaleRatio: 0.1 },
  'elastic=1.5@4': { elastic: { strengthPixels: 1.5, smoothnessPixels: 4 } },
};

const bytes = seededRandom(1);
const count = 512;
const images = Uint8Array.from({ length: count * 3072 }, () => bytes.integer(256));
const split = { count, images, labels: new Uint8Array(count) };
const timesMs = new Map<string, number[]>(Object.keys(CASES).map((name) => [name, []]));
for (let round = 0; round < ROUNDS; round++) {
  const indices = Uint32Array.from({ length: BATCH }, (_, i) => (round * BATCH + i) % count);
  for (const [name, augmentation] of Object.entries(CASES)) {
    const start = performance.now();
    const random = seededRandom(round);
    batchOf({ shape: SHAPE }, split, indices, augmentation && { augmentation: { ...augmentation, random } });
    timesMs.get(name)!.push(performance.now() - start);
  }
}
process.stdout.write(`ms per batch of ${BATCH}×${SHAPE.join('×')}     min  median\n`);
for (const [name, times] of timesMs) {
  times.sort((a, b) => a - b);
  process.stdout.write(
    `${name.padEnd(52)} ${times[0]!.toFixed(2).padStart(5)} ${times[times.length >> 1]!.toFixed(2).padStart(6)}\n`,
  );
}
