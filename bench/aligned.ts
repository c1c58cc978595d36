import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { probeBlockSize } from '../src/engine/probe-block.ts';
import type { Model } from '../src/graph/model.ts';
import { readModel } from '../src/graph/onnx/read.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import { pruneToGoal } from '../src/port/goal.ts';
import { compareLatency } from '../src/port/profile/compare-latency.ts';
import { fillWeights } from '../src/transform/prune/networks.fixture.ts';
import { prune } from '../src/transform/prune/prune.ts';

/**
 * What alignment buys at equal multiply-accumulates, on this machine: networks plainly pruned (every group loses the
 * ratio, any width) against networks pruned to the same share with `align: 'auto'` (`pruneToGoal`), as a user gets them.
 * "MACs" is how many more the aligned one has: never fewer, at most 1 %. Weights are seeded, no saliency beyond plain's is
 * lost (`fastAllocations`). Runs of the three networks take turns, a few at a time as in a server (`compareLatency`), one
 * thread; what others on the machine take from the thread is left out. The gain is that of the medians, "fastest" that of
 * the fastest runs. "On block" is how many of the plain network's groups happen to be multiples of the block: where the
 * widest are (at ratios that are multiples of a twentieth, those of MobileNetV2), plain pruning is half aligned, and there
 * is less to gain.
 * `mobilenet_v2.cifar` is the usual form for CIFAR: stride 1 at the first and the last strided layer, and images padded to
 * 34x34, as that form's first convolution does.
 * Run where the shared graphs are:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/aligned.js [name…] [ratio…]
 */
const CASES: readonly Case[] = [
  { name: 'mobilenet_v2', file: 'mobilenet_v2.bn', size: 224, wanted: '>= 2' },
  { name: 'mobilenet_v2.cifar', file: 'mobilenet_v2.bn', size: 34, wanted: '>= 2', isCifar: true },
  { name: 'mobilenet_v2', file: 'mobilenet_v2.bn', size: 32, wanted: '-' },
  { name: 'densenet121.cifar', file: 'cifar_densenet121.bn', size: 32, wanted: '>= 1.3' },
  { name: 'resnet18', file: 'resnet18.bn', size: 224, wanted: '-' },
];
const RATIOS = [0.3, 0.33, 0.37, 0.4, 0.42, 0.45, 0.5];
const RUNS = 96;
/** Strided layers of MobileNetV2 that have stride 1 for images of 32 pixels, by their outputs. */
const CIFAR_UNSTRIDED = [
  '/features/features.0/features.0.0/Conv_output_0',
  '/features/features.14/conv/conv.1/conv.1.0/Conv_output_0',
];

interface Case {
  readonly name: string;
  readonly file: string;
  readonly size: number;
  readonly wanted: string;
  readonly isCifar?: boolean;
}

const shared = process.env.BONSAI_SHARED ?? '../shared';
const given = process.argv.slice(2);
const names = given.filter((text) => Number.isNaN(Number(text)));
const asked = given.map(Number).filter((ratio) => ratio > 0 && ratio < 1);
const block = await probeBlockSize();

const print = (...cells: readonly string[]) =>
  process.stdout.write(
    `${cells.map((text, i) => (i === 0 ? text.padEnd(28) : text.padStart(11))).join('')}\n`,
  );
process.stdout.write(`block ${block}, one thread, ${RUNS} runs each, in turns\n`);
print(
  ...['network', 'ratio', 'plain M', 'MACs', 'on block', 'whole ms', 'plain ms', 'aligned ms'],
  ...['gain', 'fastest', 'wanted'],
);

for (const { name, file, size, wanted, isCifar } of CASES) {
  const title = `${name} ${size}x${size}`;
  if (names.length > 0 && !names.some((part) => title.includes(part))) continue;
  const bytes = gunzipSync(readFileSync(`${shared}/graphs/${file}.onnx.gz`));
  const filled = fillWeights(readModel(bytes), 1);
  const model = atSize(isCifar ? withoutStrides(filled, CIFAR_UNSTRIDED) : filled, size);
  for (const ratio of asked.length > 0 ? asked : RATIOS) {
    const plain = prune(model, { ratio, align: 1 });
    const { before, after } = plain.macs!;
    const aligned = await pruneToGoal(model, { kind: 'flops', share: after / before }, { align: 'auto' });
    const models = [model, plain.model, aligned.model].map((each) => writeModel(each));
    const [whole, plainTime, alignedTime] = await compareLatency(models, { runs: RUNS, undisturbed: true });
    const onBlock = plain.groups.filter(({ kept }) => kept % block === 0).length;
    print(
      title,
      String(ratio),
      (after / 1e6).toFixed(1),
      `+${(100 * (aligned.macs!.after / after - 1)).toFixed(2)} %`,
      `${onBlock}/${plain.groups.length}`,
      ...[whole!, plainTime!, alignedTime!].map(({ median }) => median.toFixed(3)),
      `${(plainTime!.median / alignedTime!.median).toFixed(2)} x`,
      `${(plainTime!.min / alignedTime!.min).toFixed(2)} x`,
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

/** The same network with stride 1 at the nodes that make these values. */
function withoutStrides(model: Model, outputs: readonly string[]): Model {
  const nodes = model.graph.nodes.map((node) =>
    outputs.includes(node.outputs[0]!)
      ? { ...node, attributes: new Map(node.attributes).set('strides', { kind: 'ints', value: [1n, 1n] }) }
      : node,
  );
  return { ...model, graph: { ...model.graph, nodes } };
}
