import { elementCount } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { Node } from '../graph/model.ts';
import { alongAxis, labelsAlong } from './channels.ts';
import { sameInEveryGroup } from './conv.ts';
import { requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { type CouplingContext, defineOp } from './op.ts';

/**
 * y = scale · (x − mean) / √(var + ε) + bias, with mean and variance for each sample and group of channels. Scale and
 * bias have one element for each group in opset 18 and one for each channel since opset 21.
 */
export const GroupNormalization = defineOp({
  schema: { name: 'GroupNormalization', since: [18, 21], inputs: [3, 3], outputs: [1, 1] },
  shape({ node, opset, inputs }) {
    const x = requiredType(node, inputs, 0);
    const groups = groupsOf(node);
    const channels = x.shape?.[1];
    if (typeof channels === 'number' && channels % groups !== 0) {
      throw new ShapeError(node, 0, `has ${channels} channels, not a multiple of num_groups ${groups}`);
    }
    const expected = opset < 21 ? groups : channels;
    for (const input of [1, 2]) {
      const size = inputs[input]?.shape?.[0];
      if (typeof size === 'number' && typeof expected === 'number' && size !== expected)
        throw new ShapeError(node, input, `has ${size} elements, expected ${expected}`);
    }
    return [x];
  },
  coupling: couple,
  // As InstanceNormalization: a multiply-add for each element.
  cost: ({ outputs: [y] }) => ({ macs: elementCount(y!) }),
});

/**
 * Groups stay equally wide: the channels at the same place of every group are one. Those that stay get another mean and
 * variance. Groups of one channel each go with their channel, as in InstanceNormalization.
 */
function couple(context: CouplingContext): void {
  const { node, opset } = context;
  const whole = context.labels(0);
  const channels = context.xShape(0)?.[1];
  if (whole === undefined) return;
  if (typeof channels !== 'number' || ![1, 2].every((input) => context.isParameter(input))) {
    context.freeze(whole.data, 'scale and bias of a GroupNormalization are computed, not stored');
    return;
  }
  const labels = labelsAlong(context, 0, 1, channels);
  if (labels === undefined) return;
  const groups = groupsOf(node);
  const isEach = groups === channels;
  if (!isEach) {
    sameInEveryGroup(context, labels, groups);
    context.inexact(labels, 'GroupNormalization takes mean and variance over each group of channels');
  }
  if (isEach || opset >= 21) for (const input of [1, 2]) context.bind(input, 0, labels);
  context.produce(0, alongAxis(labels, 1, whole.shape.length));
  if (!isEach) return;
  context.rewrite(({ kept }) => ({
    attributes: new Map([...node.attributes, ['num_groups', { kind: 'int', value: BigInt(kept(labels)) }]]),
  }));
}

function groupsOf(node: Node): number {
  const groups = intAttribute(node, 'num_groups', 0);
  if (groups < 1) throw new ShapeError(node, 0, `cannot be normalised in ${groups} groups`);
  return groups;
}
