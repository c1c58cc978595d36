import { BITS_PER_ELEMENT } from '../../base/dtype.ts';
import type { Tensor } from '../../base/tensor.ts';
import type { Model } from '../../graph/model.ts';
import type { Propagation } from './labels.ts';
import { removedTest } from './remove-channels.ts';

/**
 * The oracle of pruning: the network at full size in which nothing reads the removed channels, because the slices
 * that consume them are zero. Whatever lies between producer and consumer, it computes what the network without
 * these channels has to compute. Source: PRUNING.md section 4 (masking at the consumer, which is always exact).
 */
export function maskChannels(propagation: Propagation, labels: Iterable<number>): Model {
  const { model, bindings } = propagation;
  const isRemoved = removedTest(propagation, labels);
  const initializers = new Map(model.graph.initializers);
  const nodes = model.graph.nodes.map((node) => ({ ...node, inputs: [...node.inputs] }));
  for (const [index, binding] of bindings.entries()) {
    if (!binding.consumes) continue;
    const zeros = [...binding.labels.keys()].filter(
      (i) => binding.labels[i]! >= 0 && isRemoved(binding.labels[i]!),
    );
    if (zeros.length === 0) continue;
    const node = nodes[binding.node]!;
    // A node may consume along two axes: mask what the first of them left.
    const current = initializers.get(node.inputs[binding.input]!) ?? binding.tensor;
    const name = `masked/${index}`;
    initializers.set(name, zeroSlices(current, binding.axis, zeros));
    node.inputs[binding.input] = name;
  }
  return { ...model, graph: { ...model.graph, nodes, initializers } };
}

function zeroSlices(tensor: Tensor, axis: number, positions: readonly number[]): Tensor {
  const size = tensor.shape[axis]!;
  const rowBytes = tensor.shape
    .slice(axis + 1)
    .reduce((product, length) => product * length, BITS_PER_ELEMENT[tensor.dtype] / 8);
  const bytes = tensor.bytes.slice();
  for (let block = 0; block * size * rowBytes < bytes.length; block++) {
    for (const position of positions) {
      const from = (block * size + position) * rowBytes;
      bytes.fill(0, from, from + rowBytes);
    }
  }
  return { ...tensor, bytes };
}
