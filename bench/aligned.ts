import { readFileSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { gunzipSync } from 'node:zlib';
import { seededRandom } from '../src/base/random.ts';
import { float32Tensor, type Tensor } from '../src/base/tensor.ts';
import { probeBlockSize } from '../src/engine/probe-block.ts';
import { Session } from '../src/engine/session.ts';
import type { Model } from '../src/graph/model.ts';
import { readModel } from '../src/graph/onnx/read.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import { threadWaitMs } from '../src/port/profile/thread-wait.ts';
import { pruneToShare } from '../src/transform/prune/goal.ts';
import { fillWeights } from '../src/transform/prune/networks.fixture.ts';
import { prune } from '../src/transform/prune/prune.ts';

/**
 * What alignment buys: networks pruned to any widths (align 1) against networks pruned to multiples of the engine's
 * block, at equal multiply-accumulates, on this machine. The plain network is uniform; the aligned one is pruned to as
 * many multiply-accumulates, or barely more, as a goal (`pruneToShare`), because uniform ratios at wide blocks leave
 * DenseNet's growth rate two widths to choose from. Runs alternate between the two, one thread, weights seeded; what others on the
 * machine take from the thread is left out; the figure is the median of runs, the spread is that between quartiles.
 * Run where the shared graphs are:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/aligned.js [name…]
 */
const CASES: readonly { readonly file: string; readonly size: number; readonly wanted: string }[] = [
  { file: 'mobilenet_v2.bn', size: 32, wanted: '>= 2' },
  { file: 'mobilenet_v2.bn', size: 224, wanted: '>= 2' },
  { file: 'cifar_densenet121.bn', size: 32, wanted: '>= 1.3' },
  { file: 'resnet18.bn', size: 224, wanted: '-' },
];
const RATIOS = [0.3, 0.4, 0.45];
const ROUNDS = 60;
const WARMUP = 5;

const shared = process.env.BONSAI_SHARED ?? '../shared';
const names = process.argv.slice(2);
const block = await probeBlockSize();

const cell = (text: string, width: number) => text.padStart(width);
const print = (...cells: readonly string[]) =>
  process.stdout.write(`${cells.map((text, i) => (i === 0 ? text.padEnd(30) : cell(text, 11))).join('')}\n`);
process.stdout.write(`block ${block}, one thread, ${ROUNDS} alternating runs each\n`);
print(
  'network',
  'ratio',
  'plain M',
  'aligned M',
  'whole ms',
  'plain ms',
  'aligned ms',
  'ratio',
  'spread',
  'wanted',
);

for (const { file, size, wanted } of CASES) {
  if (names.length > 0 && !names.some((name) => file.includes(name))) continue;
  const bytes = gunzipSync(readFileSync(`${shared}/graphs/${file}.onnx.gz`));
  const model = atSize(fillWeights(readModel(bytes), 1), size);
  for (const ratio of RATIOS) {
    const plain = prune(model, { ratio, align: 1 });
    const macs = plain.macs!.after;
    const aligned = pruneToShare(
      model,
      { kind: 'flops', share: macs / plain.macs!.before },
      { align: block },
    );
    const [whole, plainMs, alignedMs] = await alternate([model, plain.model, aligned.model], size);
    print(
      `${file} ${size}x${size}`,
      String(ratio),
      (macs / 1e6).toFixed(1),
      (aligned.macs!.after / 1e6).toFixed(1),
      quantile(whole!, 0.5).toFixed(3),
      quantile(plainMs!, 0.5).toFixed(3),
      quantile(alignedMs!, 0.5).toFixed(3),
      `${(quantile(plainMs!, 0.5) / quantile(alignedMs!, 0.5)).toFixed(2)} x`,
      `${(quantile(alignedMs!, 0.75) / quantile(alignedMs!, 0.25)).toFixed(2)}`,
      wanted,
    );
  }
}

/** The same network for square images of another size; whatever follows from the size is inferred anew. */
function atSize(model: Model, size: number): Model {
  const inputs = model.graph.inputs.map((info) => ({
    ...info,
    ...(info.type && { type: { ...info.type, shape: ['N', 3, size, size] } }),
  }));
  return { ...model, graph: { ...model.graph, inputs, valueInfos: new Map() } };
}

async function alternate(models: readonly Model[], size: number): Promise<number[][]> {
  const random = seededRandom(1);
  const data = Float32Array.from({ length: 3 * size * size }, () => random.uniform());
  const sessions: Session[] = [];
  for (const model of models) sessions.push(await Session.create(writeModel(model), { intraOpThreads: 1 }));
  const times: number[][] = models.map(() => []);
  for (let round = -WARMUP; round < ROUNDS; round++) {
    for (const [i, session] of sessions.entries()) {
      const feeds: Record<string, Tensor> = {
        [session.inputNames[0]!]: float32Tensor([1, 3, size, size], data),
      };
      const waited = threadWaitMs();
      const start = performance.now();
      await session.run(feeds);
      const ms = performance.now() - start;
      const lost = threadWaitMs() - waited;
      if (round >= 0) times[i]!.push(ms - lost);
    }
  }
  for (const session of sessions) await session.release();
  return times;
}

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(q * (sorted.length - 1))]!;
}
