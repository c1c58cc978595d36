import { halfTensor, isHalf, withoutHalf } from '../../base/half.ts';
import { elementCount, float32Tensor, floatsOf } from '../../base/tensor.ts';
import { floatAttribute, intAttribute } from '../../graph/attributes.ts';
import { type Model, type Node, withGraph } from '../../graph/model.ts';
import { type Binding, nameOf, type Propagation } from './labels.ts';
import { removedTest } from './remove-channels.ts';

/** For a value that layers read, the mean of each of its channels over examples and positions. */
export type ChannelMeans = ReadonlyMap<string, Float64Array>;

/**
 * The network in which what removed channels gave on average is in the biases of the layers that read them:
 * b_o ← b_o + Σ over removed i of mean(a_i) · Σ over the kernel of W[o, i, …]. Exact where a removed channel was constant
 * (but for zero padding at the rim); else it keeps the means that later layers were trained with, as re-estimating
 * BatchNormalization does, and works where that was folded away. Labels stay those of the propagation.
 * Convolutions of one group and Gemm are compensated; other consumers are left as they are.
 * Source: He, Zhang and Sun 2017 and Nagel et al. 2019 (bias correction), applied to removed channels.
 */
export function compensateMeans(
  propagation: Propagation,
  labels: Iterable<number>,
  means: ChannelMeans,
): Model {
  const { model, bindings } = propagation;
  const isRemoved = removedTest(propagation, labels);
  const initializers = new Map(model.graph.initializers);
  const nodes = [...model.graph.nodes];
  for (const binding of bindings) {
    const node = nodes[binding.node]!;
    const values = means.get(node.inputs[0] ?? '');
    if (
      !binding.consumes ||
      binding.crosses ||
      binding.input !== 1 ||
      values?.length !== binding.labels.length
    )
      continue;
    if (!takesBias(node)) continue;
    const shift = shiftOf(binding, isRemoved, values);
    if (shift === undefined) continue;
    const old = initializers.get(node.inputs[2] ?? '');
    const { dtype } = binding.tensor;
    if (node.inputs[2] && (old?.dtype !== dtype || elementCount(old.shape) !== shift.length)) continue;
    const before = old === undefined ? new Float32Array(shift.length) : floatsOf(withoutHalf(old));
    // A bias of its own: exporters share equal ones between layers.
    const name = `${nameOf(node)}/compensated_bias`;
    if (initializers.has(name)) continue;
    const shape = old?.shape ?? [shift.length];
    const after = before.map((value, o) => value + shift[o]!);
    initializers.set(name, isHalf(dtype) ? halfTensor(dtype, shape, after) : float32Tensor(shape, after));
    nodes[binding.node] = { ...node, inputs: [node.inputs[0]!, node.inputs[1]!, name] };
  }
  return withGraph(model, { ...model.graph, nodes, initializers });
}

/** The values at which a network's layers read channels that `compensateMeans` can make up for. */
export function compensationSites({ model, bindings, values }: Propagation): string[] {
  const sites = new Set<string>();
  for (const { node: index, consumes, crosses, input } of bindings) {
    const node = model.graph.nodes[index]!;
    if (consumes && !crosses && input === 1 && takesBias(node) && values.has(node.inputs[0]!))
      sites.add(node.inputs[0]!);
  }
  return [...sites];
}

function takesBias(node: Node): boolean {
  if (node.opType === 'Conv') return intAttribute(node, 'group', 1) === 1;
  if (node.opType !== 'Gemm') return false;
  return floatAttribute(node, 'alpha', 1) === 1 && floatAttribute(node, 'beta', 1) === 1;
}

/** What the removed channels gave each output on average; undefined where none of them is removed. */
function shiftOf(
  { tensor, axis, labels }: Binding,
  isRemoved: (label: number) => boolean,
  means: Float64Array,
): Float64Array | undefined {
  const stored = withoutHalf(tensor);
  if (stored.dtype !== 'float32') return undefined;
  const outAxis = axis === 0 ? 1 : 0;
  const weights = floatsOf(stored);
  const outputs = tensor.shape[outAxis]!;
  const kernel = elementCount(tensor.shape.slice(2));
  const [outStride, inStride] = axis === 0 ? [kernel, outputs * kernel] : [tensor.shape[1]! * kernel, kernel];
  const shift = new Float64Array(outputs);
  let removed = 0;
  for (const [i, label] of labels.entries()) {
    if (label < 0 || !isRemoved(label)) continue;
    removed++;
    for (let o = 0; o < outputs; o++) {
      let sum = 0;
      const start = o * outStride + i * inStride;
      for (let at = start; at < start + kernel; at++) sum += weights[at]!;
      shift[o]! += means[i]! * sum;
    }
  }
  return removed > 0 ? shift : undefined;
}
