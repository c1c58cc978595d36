import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { type Random, seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { type Model, withGraph } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';

/*
 * Networks for the tests of pruning: other people's graphs with weights filled in, and small random ones.
 */

/** A file of the shared folder (`graphs/x.onnx.gz`, `models/x.onnx`) as it is; undefined where there is none. */
export function sharedModel(path: string): Model | undefined {
  const file = join(process.env.BONSAI_SHARED ?? '../shared', path);
  if (!existsSync(file)) return undefined;
  const bytes = readFileSync(file);
  return readModel(path.endsWith('.gz') ? gunzipSync(bytes) : bytes);
}

/**
 * Fills float initialisers that are zero throughout, or many times the same number (graphs are shared without their
 * weights) so that outputs depend on inputs: He-normal kernels, BatchNorm scale and variance in [0.5, 1.5], everything else small.
 */
export function fillWeights(model: Model, seed: number): Model {
  const roles = new Map<string, 'kernel' | 'spread'>();
  for (const node of model.graph.nodes) {
    for (const [input, name] of node.inputs.entries()) {
      if (node.opType === 'BatchNormalization' && (input === 1 || input === 4)) roles.set(name, 'spread');
      else if (['Conv', 'Gemm', 'MatMul'].includes(node.opType) && input === 1) roles.set(name, 'kernel');
    }
  }
  const initializers = new Map(model.graph.initializers);
  for (const [name, tensor] of initializers) {
    if (tensor.dtype !== 'float32' || !isPlaceholder(tensor)) continue;
    const random = seededRandom(seed).fork(name);
    const role = roles.get(name);
    initializers.set(
      name,
      role === 'kernel'
        ? heNormal(tensor.shape, random)
        : filled(tensor.shape, () => (role === 'spread' ? 0.5 + random.uniform() : 0.1 * random.normal())),
    );
  }
  return withGraph(model, { ...model.graph, initializers });
}

/** Fewer equal numbers may be meant. */
const PLACEHOLDER_ELEMENTS = 32;

function isPlaceholder(tensor: Tensor): boolean {
  const values = floatsOf(tensor);
  if (values.length < PLACEHOLDER_ELEMENTS) return values.every((value) => value === 0);
  return values.every((value) => value === values[0]);
}

/** Kinds of layers that `randomNetwork` can draw; each keeps [N, channels, size, size] or says what it makes of it. */
export const LAYERS = [
  'conv',
  'bn-relu',
  'residual',
  'projection',
  'concat',
  'depthwise',
  'pool',
  'average-pool',
  'gate',
  'bias',
  'grouped',
  'shuffle',
  'split',
  'transposed',
  'upsample',
  'pad-channels',
  'instance-norm',
  'group-norm',
  'depth-to-space',
  'attention',
  'layer-norm',
  'maxout',
  'repeated-gate',
  'standardised',
  'positions',
] as const;
export type Layer = (typeof LAYERS)[number];

/** A small network of the given layers on an 8 x 8 image, closed by either kind of head. */
export function randomNetwork(layers: readonly Layer[], head: 'gap' | 'flatten', seed: number): Model {
  const build = new GraphBuilder('random');
  const random = seededRandom(seed);
  const width = () => 3 + random.integer(6);
  const kernel = (shape: number[]) => build.constant(heNormal(shape, random), 'w');
  const vector = (count: number, make: () => number) => build.constant(filled([count], make), 'p');
  const small = () => 0.3 * random.normal();

  let channels = 2;
  let size = 8;
  let x = build.input('image', 'float32', ['N', channels, size, size]);
  const conv = (input: string, from: number, to: number) =>
    build.op('Conv', [input, kernel([to, from, 3, 3]), vector(to, small)], {
      kernel_shape: [3, 3],
      pads: [1, 1, 1, 1],
    });
  const norm = (input: string, count: number) => {
    const spread = () => 0.5 + random.uniform();
    const parameters = [
      vector(count, spread),
      vector(count, small),
      vector(count, small),
      vector(count, spread),
    ];
    return build.op('BatchNormalization', [input, ...parameters]);
  };
  const widen = () => {
    const to = width();
    x = conv(x, channels, to);
    channels = to;
  };
  widen();
  for (const layer of layers) {
    switch (layer) {
      case 'conv':
        widen();
        break;
      case 'bn-relu':
        x = build.op('Relu', [norm(x, channels)]);
        break;
      case 'residual': {
        const inner = width();
        x = build.op('Add', [x, conv(build.op('Relu', [conv(x, channels, inner)]), inner, channels)]);
        break;
      }
      case 'projection': {
        const to = width();
        x = build.op('Relu', [build.op('Add', [conv(x, channels, to), norm(conv(x, channels, to), to)])]);
        channels = to;
        break;
      }
      case 'concat': {
        const more = width();
        x = build.op('Concat', [x, conv(x, channels, more)], { axis: 1 });
        channels += more;
        break;
      }
      case 'depthwise': {
        const attributes = { kernel_shape: [3, 3], pads: [1, 1, 1, 1], group: channels };
        x = build.op('Conv', [x, kernel([channels, 1, 3, 3]), vector(channels, small)], attributes);
        break;
      }
      case 'pool':
      case 'average-pool':
        if (size < 4) break;
        x = build.op(layer === 'pool' ? 'MaxPool' : 'AveragePool', [x], {
          kernel_shape: [2, 2],
          strides: [2, 2],
        });
        size /= 2;
        break;
      case 'gate': {
        const hidden = width();
        const squeezed = build.op('Relu', [
          build.op('Conv', [build.op('GlobalAveragePool', [x]), kernel([hidden, channels, 1, 1])]),
        ]);
        x = build.op('Mul', [
          x,
          build.op('Sigmoid', [build.op('Conv', [squeezed, kernel([channels, hidden, 1, 1])])]),
        ]);
        break;
      }
      case 'bias':
        x = build.op('Add', [x, build.constant(filled([1, channels, 1, 1], small), 'p')]);
        break;
      case 'grouped': {
        const groups = 2 + random.integer(2);
        const [from, to] = [groups * width(), groups * width()];
        const attributes = { kernel_shape: [3, 3], pads: [1, 1, 1, 1], group: groups };
        x = build.op(
          'Conv',
          [conv(x, channels, from), kernel([to, from / groups, 3, 3]), vector(to, small)],
          attributes,
        );
        channels = to;
        break;
      }
      case 'shuffle': {
        const rows = 2 + random.integer(2);
        const to = rows * width();
        const factored = build.op('Reshape', [
          conv(x, channels, to),
          build.ints([0, rows, to / rows, size, size]),
        ]);
        const turned = build.op('Transpose', [factored], { perm: [0, 2, 1, 3, 4] });
        x = build.op('Reshape', [turned, build.ints([0, to, size, size])]);
        channels = to;
        break;
      }
      case 'split': {
        const [left, right] = [width(), width()];
        const parts = build.ops(
          'Split',
          [conv(x, channels, left + right), build.ints([left, right])],
          { axis: 1 },
          { outputs: 2 },
        );
        x = build.op('Concat', [parts[1], build.op('Relu', [parts[0]])], { axis: 1 });
        channels = left + right;
        break;
      }
      case 'transposed': {
        const to = width();
        const larger = build.op('ConvTranspose', [x, kernel([channels, to, 2, 2]), vector(to, small)], {
          kernel_shape: [2, 2],
          strides: [2, 2],
        });
        x = build.op('AveragePool', [larger], { kernel_shape: [2, 2], strides: [2, 2] });
        channels = to;
        break;
      }
      case 'upsample': {
        const scales = build.floats([1, 1, 2, 2]);
        const larger = build.op('Resize', [x, undefined, scales], { mode: 'nearest' });
        x = build.op('MaxPool', [larger], { kernel_shape: [2, 2], strides: [2, 2] });
        break;
      }
      case 'pad-channels': {
        // A shortcut without parameters (He et al. 2016, option A): zeros stand in for the channels that are new.
        const [before, after] = [random.integer(3), 1 + random.integer(3)];
        const to = channels + before + after;
        const wider = build.op('Pad', [x, build.ints([0, before, 0, 0, 0, after, 0, 0])]);
        x = build.op('Add', [wider, conv(x, channels, to)]);
        channels = to;
        break;
      }
      case 'instance-norm':
        x = build.op('InstanceNormalization', [x, vector(channels, small), vector(channels, small)]);
        break;
      case 'group-norm': {
        // As exporters wrote it before opset 18.
        const groups = 2 + random.integer(2);
        const to = groups * width();
        const rows = build.op('Reshape', [conv(x, channels, to), build.ints([0, groups, -1])]);
        const ones = build.constant(
          filled([groups], () => 1),
          'p',
        );
        const zeros = build.constant(
          filled([groups], () => 0),
          'p',
        );
        const normal = build.op('Reshape', [
          build.op('InstanceNormalization', [rows, ones, zeros]),
          build.ints([0, to, size, size]),
        ]);
        const scale = build.constant(filled([to, 1, 1], small), 'p');
        const shift = build.constant(filled([to, 1, 1], small), 'p');
        x = build.op('Add', [build.op('Mul', [normal, scale]), shift]);
        channels = to;
        break;
      }
      case 'depth-to-space': {
        const to = width();
        const larger = build.op('DepthToSpace', [conv(x, channels, 4 * to)], {
          blocksize: 2,
          mode: random.integer(2) === 0 ? 'DCR' : 'CRD',
        });
        x = build.op('AveragePool', [larger], { kernel_shape: [2, 2], strides: [2, 2] });
        channels = to;
        break;
      }
      case 'attention': {
        const [heads, depth] = [2 + random.integer(2), 2 + random.integer(3)];
        const inner = heads * depth;
        const tokens = size * size;
        const rows = build.op('Transpose', [build.op('Reshape', [x, build.ints([0, channels, tokens])])], {
          perm: [0, 2, 1],
        });
        const project = (perm: number[]) => {
          const made = build.op('Add', [
            build.op('MatMul', [rows, kernel([channels, inner])]),
            vector(inner, small),
          ]);
          const byHead = build.op('Reshape', [made, build.ints([0, tokens, heads, depth])]);
          return build.op('Transpose', [byHead], { perm });
        };
        const [q, k, v] = [project([0, 2, 1, 3]), project([0, 2, 3, 1]), project([0, 2, 1, 3])];
        const scores = build.op('Mul', [build.op('MatMul', [q, k]), build.scalar(1 / Math.sqrt(depth))]);
        const seen = build.op('MatMul', [build.op('Softmax', [scores], { axis: -1 }), v]);
        const merged = build.op('Reshape', [
          build.op('Transpose', [seen], { perm: [0, 2, 1, 3] }),
          build.ints([0, tokens, inner]),
        ]);
        const back = build.op('Add', [build.op('MatMul', [merged, kernel([inner, channels])]), rows]);
        x = build.op('Reshape', [
          build.op('Transpose', [back], { perm: [0, 2, 1] }),
          build.ints([0, channels, size, size]),
        ]);
        break;
      }
      case 'layer-norm': {
        const last = build.op('Transpose', [x], { perm: [0, 2, 3, 1] });
        const normal = build.op('LayerNormalization', [
          last,
          vector(channels, () => 0.5 + random.uniform()),
          vector(channels, small),
        ]);
        x = build.op('Transpose', [normal], { perm: [0, 3, 1, 2] });
        break;
      }
      case 'maxout': {
        const [to, pieces] = [width(), 2 + random.integer(2)];
        const parts = build.op('Reshape', [
          conv(x, channels, to * pieces),
          build.ints([0, to, pieces, size, size]),
        ]);
        x = build.op('ReduceMax', [parts], { axes: [2], keepdims: 0 });
        channels = to;
        break;
      }
      case 'repeated-gate': {
        const mask = build.op('Sigmoid', [conv(x, channels, 1)]);
        x = build.op('Mul', [x, build.op('Expand', [mask, build.op('Shape', [x])])]);
        break;
      }
      case 'standardised': {
        const to = width();
        const weight = kernel([to, channels, 3, 3]);
        const centred = build.op('Sub', [weight, build.op('ReduceMean', [weight], { axes: [1, 2, 3] })]);
        const norm = build.op('ReduceL2', [centred], { axes: [1, 2, 3] });
        x = build.op('Conv', [x, build.op('Div', [centred, norm])], { pads: [1, 1, 1, 1] });
        channels = to;
        break;
      }
      case 'positions': {
        // A network over positions, for each channel alike.
        const [area, hidden] = [size * size, width()];
        const rows = build.op('Reshape', [x, build.ints([0, 0, area])]);
        const inner = build.op('Sigmoid', [build.op('MatMul', [rows, kernel([area, hidden])])]);
        const mixed = build.op('MatMul', [inner, kernel([hidden, area])]);
        x = build.op('Reshape', [build.op('Add', [rows, mixed]), build.ints([0, 0, size, size])]);
        break;
      }
      default:
        layer satisfies never;
    }
  }
  if (head === 'gap') {
    x = build.op('GlobalAveragePool', [x]);
    size = 1;
  }
  const features = channels * size * size;
  const flat = build.op('Flatten', [x]);
  const logits = build.op(
    'Gemm',
    [flat, kernel([5, features]), vector(5, small)],
    { transB: 1 },
    { outputs: ['logits'] },
  );
  build.output(logits, 'float32', ['N', 5]);
  return modelOf(build.finish());
}

/**
 * Seeded inputs for every input of a network, batch 2 where the file leaves it open.
 * @param fixed a shape for all of them, where files leave more open
 */
export function inputsFor(model: Model, seed: number, fixed?: readonly number[]): Record<string, Tensor> {
  const random = seededRandom(seed);
  return Object.fromEntries(
    model.graph.inputs.map(({ name, type }) => {
      const shape = fixed ?? (type?.shape ?? []).map((dim) => (typeof dim === 'number' ? dim : 2));
      return [name, filled(shape, () => random.normal())];
    }),
  );
}

function heNormal(shape: readonly number[], random: Random): Tensor {
  const fanIn = elementCount(shape.slice(1));
  return filled(shape, () => Math.sqrt(2 / fanIn) * random.normal());
}

function filled(shape: readonly number[], make: () => number): Tensor {
  return float32Tensor(shape, Float32Array.from({ length: elementCount(shape) }, make));
}
