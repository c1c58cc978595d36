import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { systemClock } from '../src/base/clock.ts';
import { seededRandom } from '../src/base/random.ts';
import { float32Tensor } from '../src/base/tensor.ts';
import { reviewOf } from '../src/serve/cloud/cloud-side.ts';
import { SampleSpool } from '../src/serve/cloud/sample-spool.ts';
import type { InferRequest } from '../src/serve/data-plane.ts';

/**
 * What collecting samples costs an answer, in the thread that has the sockets: an image of CIFAR-10 (12 KB) with ten scores.
 * "Sure" answers are only looked at, "one in 100" are unsure ones of which a hundredth is kept, "all" are kept until the
 * hand-off is full, and then dropped. Microseconds an answer; the largest is the longest of blocks of a hundred.
 * Run: npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/cloud-review.js
 */
const ANSWERS = 20_000;
const BLOCK = 100;

const image = { ...float32Tensor([1, 3, 32, 32], new Float32Array(3072).fill(0.5)), name: 'image' };
const answerOf = (top: number) => ({
  version: 1,
  queueMs: 0,
  outputs: [{ ...float32Tensor([1, 10], [top, 0, 0, 0, 0, 0, 0, 0, 0, 0]), name: 'logits' }],
});
// Only name and description of the model are read.
const request = { model: { name: 'cifar10', stored: undefined }, inputs: [image] } as unknown as InferRequest;

for (const [name, fraction, top] of [
  ['sure', 1, 9],
  ['unsure, one in 100', 0.01, 0],
  ['unsure, all', 1, 0],
] as const) {
  const folder = await mkdtemp(join(tmpdir(), 'bonsai-bench-'));
  const spool = await SampleSpool.open({
    folder,
    limitBytes: 1e9,
    below: 0.6,
    fraction,
    clock: systemClock,
    random: seededRandom(1),
    logger: pino({ level: 'silent' }),
  });
  const review = reviewOf({ spool });
  const answer = answerOf(top);
  const blocksUs: number[] = [];
  for (let block = 0; block < ANSWERS / BLOCK; block++) {
    const startMs = performance.now();
    for (let i = 0; i < BLOCK; i++) void review(request, answer, 1);
    blocksUs.push(((performance.now() - startMs) * 1000) / BLOCK);
    await new Promise(setImmediate);
  }
  await spool.flush();
  const sorted = blocksUs.toSorted((a, b) => a - b);
  const { kept, droppedBusy } = spool.counts;
  const us = (quantile: number) => sorted[Math.floor(quantile * (sorted.length - 1))]!.toFixed(2);
  process.stdout.write(
    `${name}: median ${us(0.5)} µs, largest ${us(1)} µs; kept ${kept}, dropped ${droppedBusy}\n`,
  );
  await rm(folder, { recursive: true, force: true });
}
