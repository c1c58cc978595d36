import type { Model } from '../../graph/model.ts';
import { removeUnused } from '../../graph/walk.ts';
import { foldConstants } from '../../transform/passes/fold-constants.ts';
import { batchOfInputs, freeBatch } from '../../transform/passes/free-batch.ts';

/**
 * A trained network in the form in which statistics are gathered from it: constants folded, the batch open where that
 * is possible, and logits in place of the probabilities of a closing Softmax. Parameters keep their names.
 */
export function statisticsForm(model: Model): StatisticsForm {
  const folded = foldConstants(model);
  const network = freeBatch(folded) ?? folded;
  return { network: withLogits(network), batch: batchOfInputs(network.graph) };
}

export interface StatisticsForm {
  readonly network: Model;
  /** The batch that the network insists on; undefined: any. */
  readonly batch?: number;
}

/** The loss takes the logarithm of a softmax itself; over probabilities it would be another loss. */
function withLogits(model: Model): Model {
  const { graph } = model;
  const [output, ...others] = graph.outputs;
  const last = graph.nodes.find((node) => node.outputs[0] === output?.name);
  if (last?.opType !== 'Softmax' && last?.opType !== 'LogSoftmax') return model;
  const logits = { ...output!, name: last.inputs[0]! }; // A Softmax has one input, of its output's type.
  return { ...model, graph: removeUnused({ ...graph, outputs: [logits, ...others] }) };
}
