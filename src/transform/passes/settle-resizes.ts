import { float32Tensor } from '../../base/tensor.ts';
import { checkModel } from '../../graph/check.ts';
import { type Model, type Node, opsetOf, withGraph } from '../../graph/model.ts';
import { removeUnused } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';
import { scalesBetween } from '../../ops/resize.ts';
import { freshName, takenNames } from '../prune/remove-channels.ts';

/**
 * The same network with every Resize to sizes that the graph computes asked for by constant factors instead, where
 * inference knows the sizes that change: exporters write the output's [batch, channels, height, width], of which the
 * first two come from Shape at run time only to stay what they are.
 */
export function settleResizes(model: Model): Model {
  const { graph } = model;
  const opset = opsetOf(model) ?? 1;
  const resizes = graph.nodes.some((node) => node.opType === 'Resize' && Boolean(node.inputs[3]));
  if (opset < FIRST_WITH_SIZES || !resizes) return model;
  const { types, constants } = inferTypes(model);
  const initializers = new Map(graph.initializers);
  const taken = takenNames(model);
  const nodes = graph.nodes.map((node): Node => {
    const [x, sizes] = [node.inputs[0] ?? '', node.inputs[3] ?? ''];
    if (node.opType !== 'Resize' || node.domain !== '' || sizes === '' || constants.has(sizes)) return node;
    if (UNSETTLED.some((attribute) => node.attributes.has(attribute))) return node;
    const [from, to] = [types.get(x)?.shape, types.get(node.outputs[0] ?? '')?.shape];
    const scales = from && to && scalesBetween(from, to);
    if (scales === undefined) return node;
    const name = freshName(`${node.outputs[0]}/scales`, taken);
    initializers.set(name, float32Tensor([scales.length], scales));
    return { ...node, inputs: [x, node.inputs[1] ?? '', name] };
  });
  const result = withGraph(model, removeUnused({ ...graph, nodes, initializers }));
  checkModel(result);
  return result;
}

/** The opset in which Resize learnt `sizes`. */
const FIRST_WITH_SIZES = 11;
/** With these the sizes are for some axes only, or only a bound. */
const UNSETTLED = ['axes', 'keep_aspect_ratio_policy'];
