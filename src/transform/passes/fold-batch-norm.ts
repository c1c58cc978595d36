import { elementCount, float32Tensor, floatsOf, type Tensor } from '../../base/tensor.ts';
import { floatAttribute, intAttribute } from '../../graph/attributes.ts';
import { type Graph, type Model, type Node, withGraph } from '../../graph/model.ts';
import { consumersOf, definitionsOf, isOutput, removeUnused } from '../../graph/walk.ts';

/**
 * Folds what scales and shifts each channel of a convolution's output into the convolution: BatchNormalization in its
 * inference form, and Mul, Div, Add, Sub with a constant of one value per channel, as often as one follows another.
 * y = a · (W∗x + b) + c becomes (a·W)∗x + (a·b + c), computed in float64 and rounded once, so that results differ by
 * rounding only. Works on Conv, ConvTranspose and Gemm with stored float32 weights whose output nobody else reads.
 * Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
 * Inference", section 3.2.
 * @returns the model itself where there is nothing to fold
 */
export function foldBatchNorm(model: Model): Model {
  const { graph } = model;
  const consumers = consumersOf(graph);
  const initializers = new Map(graph.initializers);
  const taken = new Set(definitionsOf(graph));
  const absorbed = new Set<Node>();
  const add = (hint: string, tensor: Tensor): string => {
    let name = hint;
    for (let n = 1; taken.has(name); n++) name = `${hint}_${n}`;
    taken.add(name);
    initializers.set(name, tensor);
    return name;
  };

  const nodes: Node[] = [];
  for (const node of graph.nodes) {
    if (absorbed.has(node)) continue;
    const linear = linearOf(node, initializers);
    if (linear === undefined) {
      nodes.push(node);
      continue;
    }
    const { channels, rank } = linear;
    const gain = new Float64Array(channels).fill(1);
    const shift = Float64Array.from(linear.bias);
    let output = node.outputs[0]!;
    for (;;) {
      const readers = consumers.get(output) ?? [];
      const next = readers.length === 1 && !isOutput(graph, output) ? readers[0]! : undefined;
      const affine = next && affineOf(next, output, { channels, rank }, initializers);
      if (affine === undefined) break;
      for (let c = 0; c < channels; c++) {
        gain[c]! *= affine.gain[c]!;
        shift[c] = shift[c]! * affine.gain[c]! + affine.shift[c]!;
      }
      absorbed.add(next!);
      output = next!.outputs[0]!;
    }
    if (output === node.outputs[0]) {
      nodes.push(node);
      continue;
    }
    const [x, weight, bias] = node.inputs;
    const folded = add(`${weight}_folded`, linear.scaled(gain));
    const shifts = add(`${bias || weight}_shift`, float32Tensor([channels], Float32Array.from(shift)));
    nodes.push({ ...node, inputs: [x!, folded, shifts], outputs: [output] });
  }
  return absorbed.size === 0 ? model : withGraph(model, removeUnused({ ...graph, nodes, initializers }));
}

/** A node y = W∗x + b with one bias for each channel, channels along axis 1 of the output. */
interface Linear {
  readonly channels: number;
  /** Of the output. */
  readonly rank: number;
  readonly bias: ArrayLike<number>;
  /** The weight with each output channel multiplied by its gain. */
  scaled(gain: Float64Array): Tensor;
}

function linearOf(node: Node, initializers: Graph['initializers']): Linear | undefined {
  const weight = initializers.get(node.inputs[1] ?? '');
  if (node.domain !== '' || weight?.dtype !== 'float32') return undefined;
  const { shape } = weight;
  let channels: number;
  /** The output channel that an element of the weight belongs to, by its flat index. */
  let channelAt: (index: number) => number;
  if (node.opType === 'Conv' && shape.length >= 3) {
    channels = shape[0]!;
    const inner = elementCount(shape.slice(1));
    channelAt = (index) => Math.floor(index / inner);
  } else if (node.opType === 'ConvTranspose' && shape.length >= 3) {
    const group = intAttribute(node, 'group', 1);
    const perGroup = shape[1]!;
    channels = perGroup * group;
    const inner = elementCount(shape.slice(2));
    const inputsPerGroup = shape[0]! / group;
    channelAt = (index) => {
      const row = Math.floor(index / inner);
      return Math.floor(Math.floor(row / perGroup) / inputsPerGroup) * perGroup + (row % perGroup);
    };
  } else if (node.opType === 'Gemm' && shape.length === 2 && floatAttribute(node, 'beta', 1) === 1) {
    const isRow = intAttribute(node, 'transB', 0) !== 0;
    channels = shape[isRow ? 0 : 1]!;
    channelAt = isRow ? (index) => Math.floor(index / shape[1]!) : (index) => index % shape[1]!;
  } else {
    return undefined;
  }
  const bias = biasOf(node.inputs[2] ?? '', channels, initializers);
  if (bias === undefined) return undefined;
  return {
    channels,
    rank: shape.length,
    bias,
    scaled(gain) {
      const values = floatsOf(weight);
      return float32Tensor(
        shape,
        Float32Array.from(values, (value, i) => value * gain[channelAt(i)]!),
      );
    },
  };
}

/** One value for each channel: zeros where there is no bias, undefined where it is no constant of that form. */
function biasOf(
  name: string,
  channels: number,
  initializers: Graph['initializers'],
): ArrayLike<number> | undefined {
  if (name === '') return new Float64Array(channels);
  const tensor = initializers.get(name);
  if (tensor?.dtype !== 'float32') return undefined;
  const values = floatsOf(tensor);
  if (values.length === 1) return new Float64Array(channels).fill(values[0]!);
  // Gemm also takes [M, 1] and [M, N], which are not one value for each channel.
  return values.length === channels && tensor.shape.at(-1) === channels ? values : undefined;
}

interface Affine {
  readonly gain: Float64Array;
  readonly shift: Float64Array;
}

/** What a node does to each channel of the value, if it does nothing else. */
function affineOf(
  node: Node,
  value: string,
  { channels, rank }: { channels: number; rank: number },
  initializers: Graph['initializers'],
): Affine | undefined {
  if (node.domain !== '') return undefined;
  if (node.opType === 'BatchNormalization') return batchNormOf(node, value, channels, initializers);
  const isLeft = node.inputs[0] === value;
  const constant = initializers.get(node.inputs[isLeft ? 1 : 0] ?? '');
  const values = constant && perChannel(constant, channels, rank);
  if (values === undefined) return undefined;
  const [ones, zeros] = [new Float64Array(channels).fill(1), new Float64Array(channels)];
  switch (node.opType) {
    case 'Mul':
      return { gain: values, shift: zeros };
    case 'Add':
      return { gain: ones, shift: values };
    case 'Sub':
      return isLeft ? { gain: ones, shift: values.map((v) => -v) } : undefined;
    case 'Div':
      return isLeft && values.every((v) => v !== 0)
        ? { gain: values.map((v) => 1 / v), shift: zeros }
        : undefined;
    default:
      return undefined;
  }
}

function batchNormOf(
  node: Node,
  value: string,
  channels: number,
  initializers: Graph['initializers'],
): Affine | undefined {
  const isTraining =
    intAttribute(node, 'training_mode', 0) !== 0 || node.outputs.slice(1).some((name) => name !== '');
  // Until opset 8, `spatial` = 0 asks for one mean per position.
  if (node.inputs[0] !== value || isTraining || intAttribute(node, 'spatial', 1) !== 1) return undefined;
  const parameters: Float32Array[] = [];
  for (const name of node.inputs.slice(1)) {
    const tensor = initializers.get(name);
    if (tensor?.dtype !== 'float32' || elementCount(tensor.shape) !== channels) return undefined;
    parameters.push(floatsOf(tensor));
  }
  const [scale, b, mean, variance] = parameters;
  if (variance === undefined) return undefined;
  const epsilon = floatAttribute(node, 'epsilon', 1e-5); // The standard's default.
  const gain = Float64Array.from(scale!, (s, c) => s / Math.sqrt(variance[c]! + epsilon));
  return { gain, shift: gain.map((a, c) => b![c]! - mean![c]! * a) };
}

/** The constant's value for each channel (axis 1 of a value of the rank), if it depends on nothing else. */
function perChannel(constant: Tensor, channels: number, rank: number): Float64Array | undefined {
  const { shape } = constant;
  if (constant.dtype !== 'float32' || shape.length > rank) return undefined;
  const channelAxis = 1 - (rank - shape.length);
  const isFlat = shape.every((size, axis) => size === 1 || (axis === channelAxis && size === channels));
  if (!isFlat) return undefined;
  const values = floatsOf(constant);
  return Float64Array.from({ length: channels }, (_, c) => values[values.length === 1 ? 0 : c]!);
}
