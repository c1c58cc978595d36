import type { DType } from '../../base/dtype.ts';
import { elementCount, float32Tensor, floatsOf, numbersOf, type Tensor } from '../../base/tensor.ts';
import { intAttribute } from '../../graph/attributes.ts';
import { GraphBuilder } from '../../graph/build.ts';
import { type Model, type Node, withGraph } from '../../graph/model.ts';
import { namesIn, producersOf, removeUnused } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';
import { scaleAxis } from '../../ops/quantize-linear.ts';

/**
 * A quantised network whose activations are cut off at the ends of their ranges but no longer rounded to the steps in
 * between: each QuantizeLinear with its DequantizeLinear becomes min(max(x, lowest), highest), which is continuous. Two forms
 * of a network that sum in another order then differ by the rounding of floats, never by a whole step. Weights stay what
 * their integers say.
 * @returns the model itself where no pair of constant scale and zero point is found
 */
export function unrounded(model: Model): Model {
  const { graph } = model;
  if (!graph.nodes.some((node) => isStandard(node, 'QuantizeLinear'))) return model;
  const producers = producersOf(graph);
  const { types } = inferTypes(model);
  const build = new GraphBuilder(graph.name, { ...graph, nodes: [] });
  build.avoid(namesIn(graph));
  let isChanged = false;
  for (const node of graph.nodes) {
    const quantize = producers.get(node.inputs[0] ?? '');
    const limits = quantize && limitsOf(node, quantize);
    if (limits === undefined) {
      build.node(node);
      continue;
    }
    isChanged = true;
    const [lowest, highest] = limits.map((limit) => build.constant(limit, 'limit'));
    const raised = build.op('Max', [quantize!.inputs[0], lowest]);
    build.op('Min', [raised, highest], {}, { outputs: [node.outputs[0]!] });
  }
  return isChanged ? withGraph(model, removeUnused({ ...graph, ...build.finish() })) : model;

  /** The least and the largest value that the integers between two nodes stand for; undefined: the nodes are no such pair. */
  function limitsOf(node: Node, quantize: Node): readonly [Tensor, Tensor] | undefined {
    const isPair =
      isStandard(node, 'DequantizeLinear') &&
      isStandard(quantize, 'QuantizeLinear') &&
      intAttribute(quantize, 'block_size', 0) === 0;
    const range = RANGES.get(types.get(node.inputs[0] ?? '')?.dtype);
    const rank = types.get(quantize.inputs[0] ?? '')?.shape?.length;
    const [scale, zeroPoint] = [1, 2].map((input) => {
      const [own, other] = [node, quantize].map((each) => graph.initializers.get(each.inputs[input] ?? ''));
      return isSame(own, other) ? own : undefined;
    });
    const isKnown = scale?.dtype === 'float32' && (zeroPoint !== undefined || !node.inputs[2]);
    if (!isPair || range === undefined || !isKnown) return undefined;
    const [axis, other] = [node, quantize].map((each) => scaleAxis(each, rank ?? 0, scale.shape));
    if (axis !== other || (axis !== undefined && (rank === undefined || axis >= rank))) return undefined;
    const behind = axis === undefined ? 0 : rank! - axis - 1;
    const shape = axis === undefined ? [] : [elementCount(scale.shape), ...Array<number>(behind).fill(1)];
    const zeros = zeroPoint === undefined ? [] : numbersOf(zeroPoint);
    const at = (end: number) =>
      float32Tensor(
        shape,
        floatsOf(scale).map((step, i) => (end - (zeros[i] ?? 0)) * step),
      );
    return [at(range[0]), at(range[1])];
  }
}

function isStandard({ opType, domain }: Node, name: string): boolean {
  return opType === name && domain === '';
}

function isSame(a: Tensor | undefined, b: Tensor | undefined): boolean {
  return (
    a !== undefined && b !== undefined && a.dtype === b.dtype && numbersOf(a).join() === numbersOf(b).join()
  );
}

const RANGES: ReadonlyMap<DType | undefined, readonly [number, number]> = new Map([
  ['uint8', [0, 255]],
  ['int8', [-128, 127]],
  ['uint16', [0, 65_535]],
  ['int16', [-32_768, 32_767]],
]);
