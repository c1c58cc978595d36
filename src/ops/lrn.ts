import { elementCount } from '../base/tensor.ts';
import { floatAttribute, intAttribute } from '../graph/attributes.ts';
import { freezeInputs } from './channels.ts';
import { requiredType } from './dims.ts';
import { reshape } from './emit.ts';
import { defineOp, type GradientContext } from './op.ts';

/** y = x / (bias + alpha / size · Σ x²)^beta, the sum over `size` neighbouring channels (AlexNet, GoogLeNet). */
export const LRN = defineOp({
  schema: { name: 'LRN', since: [1, 13], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
  gradient: (context) => [context.needs(0) ? spreadOut(context) : undefined],
  // Without a channel its neighbours would sum over others: no weight can be cut that makes up for that.
  coupling: (context) => freezeInputs(context, 'LRN sums over windows of neighbouring channels'),
  cost: ({ node, outputs: [y] }) => ({ macs: elementCount(y!) * intAttribute(node, 'size', 1) }),
});

/**
 * With s = bias + alpha / size · Σ x² and y = x · s^-beta:
 * dx = dy · s^-beta - 2 · alpha · beta / size · x · Σ dy·y / s, the second sum over the channels whose window holds this one.
 */
function spreadOut(context: GradientContext): string {
  const { node, build, x, y, xShape } = context;
  const size = intAttribute(node, 'size', 1);
  const [alpha, beta] = [floatAttribute(node, 'alpha', 1e-4), floatAttribute(node, 'beta', 0.75)];
  const reach = (size - 1) / 2; // The engine admits odd sizes only, so windows reach as far on either side.
  const shape = xShape(0);
  /** Means over windows of channels, with zeros beyond the first and the last. */
  const windows = (value: string) => {
    const [batch, channels, ...space] = shape;
    const planes = reshape(build, value, [batch!, 1, channels!, elementCount(space)]);
    const means = build.op('AveragePool', [planes], {
      kernel_shape: [size, 1],
      pads: [reach, 0, reach, 0],
      count_include_pad: 1,
    });
    return reshape(build, means, shape);
  };
  const squares = build.op('Mul', [windows(build.op('Mul', [x(0), x(0)])), build.scalar(alpha)]);
  const s = build.op('Add', [squares, build.scalar(floatAttribute(node, 'bias', 1))]);
  const dy = context.dy[0]!;
  const direct = build.op('Mul', [dy, build.op('Pow', [s, build.scalar(-beta)])]);
  const sums = windows(build.op('Div', [build.op('Mul', [dy, y(0)]), s]));
  const around = build.op('Mul', [build.op('Mul', [x(0), sums]), build.scalar(2 * alpha * beta)]);
  return build.op('Sub', [direct, around]);
}
