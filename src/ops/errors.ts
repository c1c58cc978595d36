import { BonsaiError } from '../base/errors.ts';
import { describeNode } from '../graph/attributes.ts';
import type { Node } from '../graph/model.ts';

/** An input of a node has a shape or type that its operator does not admit. */
export class ShapeError extends BonsaiError {
  constructor(node: Node, input: number, expected: string) {
    super(
      'shape_mismatch',
      `${describeNode(node)}: input ${input} ("${node.inputs[input] ?? ''}") ${expected}.`,
    );
  }
}

/** A gradient would have to pass a node through which Bonsai knows none. */
export class MissingRuleError extends BonsaiError {
  /** @param form what of the node there is no gradient for, where others of its operator have one */
  constructor(node: Node, form?: string) {
    super(
      'missing_rule',
      `${describeNode(node)} has no gradient${form === undefined ? '' : ` ${form}`}, and there are weights before it. Such a ` +
        'network can be pruned, but not trained, nor scored by taylor, taylor-gate and other criteria of gradients: use one ' +
        'of weights or activations (l2, fpgm, slim, apoz, mean-activation), or fine-tune a network that does without ' +
        'this operator. Weights may also be kept as they are: names in the metadata "bonsai.frozen" are not trained.',
    );
  }
}
