import { BonsaiError } from '../src/base/errors.ts';
import { elementCount } from '../src/base/tensor.ts';
import type { Model } from '../src/graph/model.ts';
import { foldConstants } from '../src/transform/passes/fold-constants.ts';
import { fillWeights, sharedModel } from '../src/transform/prune/networks.fixture.ts';
import { prune } from '../src/transform/prune/prune.ts';

/**
 * How many parameters are left at ratio 0.5, uniform, any widths (align 1), beside those that a peer leaves
 * (Torch-Pruning e80127d, L2, classifier untouched, whole heads), and how long analysis and pruning take together
 * (median of runs). Run where the shared graphs are:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/peer-table.js [name…]
 */
const PEER: Readonly<Record<string, number | undefined>> = {
  'graphs/resnet18.bn.onnx.gz': 3.056,
  'graphs/densenet121.bn.onnx.gz': 2.275,
  'graphs/mobilenet_v2.bn.onnx.gz': 1.222,
  'graphs/vgg11_bn.bn.onnx.gz': 4.044,
  'graphs/googlenet.bn.onnx.gz': 1.919,
  'graphs/efficientnet_b0.bn.onnx.gz': 1.701,
  'graphs/squeezenet1_1.onnx.gz': 0.439,
  'graphs/vit_b_16.onnx.gz': 22.051,
  'graphs/shufflenet_v2_x1_0.bn.onnx.gz': undefined,
  'graphs/cifar_resnet56.bn.onnx.gz': 0.215,
  'graphs/cifar_densenet121.bn.onnx.gz': 1.763,
  'graphs/resnet18.onnx.gz': undefined,
  'graphs/densenet121.onnx.gz': undefined,
  'models/light-densenet121.onnx': undefined,
  'models/light-shufflenet.onnx': undefined,
  'models/mnist-8-cntk.onnx': undefined,
  'models/mobilenetv3-ppocr-cls.onnx': undefined,
  'models/resnet20-cifar10-torch2.onnx': undefined,
  'models/resnet32-cifar100-torch2.onnx': undefined,
  'models/resnet56-cifar10-torch2.onnx': undefined,
  'models/squeezenet-cifar10-tf2onnx.onnx': undefined,
  'models/ultraface-rfb-320.onnx': undefined,
  'models/unet-small.onnx': undefined,
  'models/vit-pgd-2-3-16-cifar10.onnx': undefined,
};
const RUNS = 3;
const wanted = process.argv.slice(2);

const line = (...cells: string[]) =>
  process.stdout.write(
    `${cells.map((cell, i) => (i === 0 ? cell.padEnd(40) : cell.padStart(11))).join('')}\n`,
  );
line('network', 'params M', 'after M', 'peer M', 'MACs left', 'groups', 'frozen', 'seconds');
for (const [path, peer] of Object.entries(PEER)) {
  if (wanted.length > 0 && !wanted.some((name) => path.includes(name))) continue;
  const raw = sharedModel(path);
  if (raw === undefined) continue;
  const model = fillWeights(foldConstants(raw), 1);
  const seconds: number[] = [];
  try {
    for (let run = 1; ; run++) {
      const start = performance.now();
      const result = prune(model, { ratio: 0.5, align: 1, rounding: 'down' });
      seconds.push((performance.now() - start) / 1000);
      if (run < RUNS) continue;
      const { macs, groups, frozen } = result;
      line(
        path.replace(/^\w+\//, ''),
        (trained(model) / 1e6).toFixed(3),
        (trained(result.model) / 1e6).toFixed(3),
        peer?.toFixed(3) ?? '-',
        macs === undefined ? '?' : `${((100 * macs.after) / macs.before).toFixed(1)} %`,
        String(groups.length),
        String(frozen.length),
        seconds.sort((a, b) => a - b)[RUNS >> 1]!.toFixed(2),
      );
      break;
    }
  } catch (error) {
    if (!(error instanceof BonsaiError)) throw error;
    line(path.replace(/^\w+\//, ''), error.message.slice(0, 90));
  }
}

/** Parameters as the peer counts them: without BatchNormalization's running averages, and without constants of arithmetic. */
function trained({ graph }: Model): number {
  const counted = new Set<string>();
  for (const node of graph.nodes) {
    for (const [input, name] of node.inputs.entries()) {
      const isStatistic = node.opType === 'BatchNormalization' && input >= 3;
      if (graph.initializers.get(name)?.dtype === 'float32' && !isStatistic) counted.add(name);
    }
  }
  return [...counted].reduce((sum, name) => sum + elementCount(graph.initializers.get(name)!.shape), 0);
}
