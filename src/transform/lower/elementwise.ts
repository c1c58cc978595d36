import { NCHWC_DOMAIN } from '../../graph/domains.ts';
import type { Node } from '../../graph/model.ts';
import { step } from '../../ops/relu-gradient.ts';
import { padAxes } from './channels.ts';
import type { Pending, Values } from './values.ts';

/** Functions with f(0) = 0: the padding stays 0 through them. */
const KEEPS_ZERO: ReadonlySet<string> = new Set([
  'Abs',
  'Celu',
  'Elu',
  'Erf',
  'Gelu',
  'HardSwish',
  'Identity',
  'LeakyRelu',
  'Neg',
  'Relu',
  'Selu',
  'Sign',
  'Softsign',
  'Tanh',
]);

/** y = f(x), element by element, does not care about the order of elements. A Relu goes into the node before it. */
export function apply(values: Values, node: Node): boolean {
  const [x, y] = [node.inputs[0]!, node.outputs[0]!];
  if (!values.isBlocked(x) || !values.isImage(x)) return false;
  const channels = values.channels(x);
  if (!KEEPS_ZERO.has(node.opType) && channels.padded !== channels.count) return false;
  const pending = node.opType === 'Relu' ? values.takePending(x) : undefined;
  if (pending !== undefined) {
    values.setBlocked(y, pending.finish({ relu: true }), channels);
    return true;
  }
  const value = values.build.op(node.opType, [values.blocked(x).value], Object.fromEntries(node.attributes));
  values.setBlocked(y, value, channels);
  return true;
}

/**
 * Sum, difference or product of two images of the same shape, or of an image and a scalar. A sum with a value that is
 * not yet written goes into the node that will write it.
 */
export function applyBinary(values: Values, node: Node): boolean {
  const [a, b] = [node.inputs[0]!, node.inputs[1]!];
  const y = node.outputs[0]!;
  const leader = [a, b].find((name) => values.isImage(name) && values.isBlocked(name));
  if (leader === undefined) return false;
  const channels = values.channels(leader);
  const other = leader === a ? b : a;
  if (values.shape(other).length === 0) {
    if (node.opType !== 'Mul' && channels.padded !== channels.count) return false;
    const operand = (name: string) => (name === leader ? values.blocked(name).value : values.plain(name));
    values.setBlocked(y, values.build.op(node.opType, [operand(a), operand(b)]), channels);
    return true;
  }
  if (!values.isImage(other) || values.shape(other).join() !== values.shape(leader).join()) return false;
  if (node.opType === 'Add' && a !== b) {
    for (const [held, added] of [
      [a, b],
      [b, a],
    ] as const) {
      const pending = fusable(values, held);
      if (pending === undefined) continue;
      const sum = values.blocked(added, pending.channels).value;
      values.setPending(y, {
        channels: pending.channels,
        hasSum: true,
        finish: ({ relu }) => pending.finish({ sum, relu }),
      });
      return true;
    }
  }
  const [left, right] = [values.blocked(a, channels).value, values.blocked(b, channels).value];
  values.setBlocked(y, values.build.op(node.opType, [left, right]), channels);
  return true;
}

function fusable(values: Values, name: string): Pending | undefined {
  return values.canAddTo(name) ? values.takePending(name) : undefined;
}

/** dy where y > 0. A gradient that is the same at all positions of a channel is spread and masked in one pass. */
export function reluGradient(values: Values, node: Node): boolean {
  const [dy, y] = [node.inputs[0]!, node.inputs[1]!];
  if (!values.isImage(y) || !values.isBlocked(y)) return false;
  const { build } = values;
  const { value, channels } = values.blocked(y);
  const mask = step(build, value);
  const share = values.spread(dy);
  const dx = node.outputs[0]!;
  if (share === undefined || values.uses(dy) !== 1) {
    values.setBlocked(dx, build.op('Mul', [values.blocked(dy, channels).value, mask]), channels);
    return true;
  }
  // Each channel of each image is a channel of its own, multiplied by its number: a depthwise 1×1 convolution.
  const [batch, , height, width] = values.shape(y) as [number, number, number, number];
  const planes = batch * channels.padded;
  const factors = padAxes(build, share, 4, new Map([[1, channels]]));
  const product = build.op(
    'Conv',
    [values.view(mask, [1, planes, height, width]), values.view(factors, [planes, 1, 1, 1])],
    { group: planes, kernel_shape: [1, 1] },
    { domain: NCHWC_DOMAIN },
  );
  values.setBlocked(dx, values.view(product, [batch, channels.padded, height, width]), channels);
  return true;
}
