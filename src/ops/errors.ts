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

/** A rule (gradient, shape, …) that a transform needs is not there for an operator. */
export class MissingRuleError extends BonsaiError {
  constructor(node: Node, rule: 'gradient' | 'shape' | 'coupling' | 'record') {
    const remedy =
      rule === 'gradient'
        ? 'Train only parameters behind it, or add `gradient` to its record in src/ops/.'
        : "Add it to the operator's record in src/ops/ and list the record in src/ops/table.ts.";
    super('missing_rule', `${describeNode(node)} has no ${rule}. ${remedy}`);
  }
}
