import { float, floatAttribute, stringAttribute } from '../graph/attributes.ts';
import { passLabels } from './broadcast.ts';
import { compound } from './compound.ts';
import { requiredType } from './dims.ts';
import { foldElementWise } from './fold-element-wise.ts';
import { defineOp, type GradientContext, type ShapeContext } from './op.ts';
import { step } from './relu-gradient.ts';

/*
 * Element-wise operators of one input, one row each: y = f(x), and the gradient dx = dy · f'(x). Channels pass
 * through whatever f is, because a channel that goes takes its slice of the consumer with it.
 */

export const Relu = unary('Relu', [1, 6, 13, 14], ({ build, dy, y }) =>
  compound(build, 'ReluGradient', [dy[0]!, y(0)]),
);

export const LeakyRelu = unary('LeakyRelu', [1, 6, 16], (context) => {
  const { build, node, x } = context;
  const alpha = floatAttribute(node, 'alpha', 0.01);
  const isPositive = build.op('Greater', [x(0), build.scalar(0)]);
  return times(context, build.op('Where', [isPositive, build.scalar(1), build.scalar(alpha)]));
});

/** Below zero f' = α·eˣ = y + α. */
export const Elu = unary('Elu', [1, 6, 22], (context) => {
  const { build, node, x, y } = context;
  const below = build.op('Add', [y(0), build.scalar(floatAttribute(node, 'alpha', 1))]);
  const isPositive = build.op('Greater', [x(0), build.scalar(0)]);
  return times(context, build.op('Where', [isPositive, build.scalar(1), below]));
});

/** Constants of the operator's definition (Klambauer et al. 2017). Below zero f' = γ·α·eˣ = y + γ·α. */
export const SELU_ALPHA = 1.6732631921768188;
export const SELU_GAMMA = 1.0507010221481323;

export const Selu = unary('Selu', [1, 6, 22], (context) => {
  const { build, node, x, y } = context;
  const alpha = floatAttribute(node, 'alpha', SELU_ALPHA);
  const gamma = floatAttribute(node, 'gamma', SELU_GAMMA);
  const below = build.op('Add', [y(0), build.scalar(gamma * alpha)]);
  const isPositive = build.op('Greater', [x(0), build.scalar(0)]);
  return times(context, build.op('Where', [isPositive, build.scalar(gamma), below]));
});

/** Below zero f' = e^(x/α) = y/α + 1. */
export const Celu = unary('Celu', [12], (context) => {
  const { build, node, x, y } = context;
  const alpha = floatAttribute(node, 'alpha', 1);
  const below = build.op('Add', [build.op('Mul', [y(0), build.scalar(1 / alpha)]), build.scalar(1)]);
  const isPositive = build.op('Greater', [x(0), build.scalar(0)]);
  return times(context, build.op('Where', [isPositive, build.scalar(1), below]));
});

/** f' = y·(1 - y). */
export const Sigmoid = unary('Sigmoid', [1, 6, 13], (context) => {
  const { build, y } = context;
  return times(context, build.op('Mul', [y(0), build.op('Sub', [build.scalar(1), y(0)])]));
});

/** f' = α inside the ramp (0 < y < 1), 0 outside. */
export const HardSigmoid = unary('HardSigmoid', [1, 6, 22], (context) => {
  const { build, node, y } = context;
  return times(
    context,
    build.op('Mul', [ramp(context, y(0)), build.scalar(floatAttribute(node, 'alpha', 0.2))]),
  );
});

/** f = x·h(x) with h = clip(x/6 + 1/2, 0, 1), so f' = h + x·h' with h' = 1/6 inside the ramp. */
export const HardSwish = unary('HardSwish', [14, 22], (context) => {
  const { build, x } = context;
  const h = build.op('HardSigmoid', [x(0)], { alpha: float(1 / 6), beta: float(0.5) });
  const slope = build.op('Mul', [ramp(context, h), build.scalar(1 / 6)]);
  return times(context, build.op('Add', [h, build.op('Mul', [x(0), slope])]));
});

/** f' = 1 - y². */
export const Tanh = unary('Tanh', [1, 6, 13], (context) => {
  const { build, y } = context;
  return times(context, build.op('Sub', [build.scalar(1), build.op('Mul', [y(0), y(0)])]));
});

/** f = ln(1 + eˣ), f' = σ(x). */
export const Softplus = unary('Softplus', [1, 22], (context) =>
  times(context, context.build.op('Sigmoid', [context.x(0)])),
);

/** f = x / (1 + |x|), f' = (1 - |y|)². */
export const Softsign = unary('Softsign', [1, 22], (context) => {
  const { build, y } = context;
  const rest = build.op('Sub', [build.scalar(1), build.op('Abs', [y(0)])]);
  return times(context, build.op('Mul', [rest, rest]));
});

export const Exp = unary('Exp', [1, 6, 13], (context) => times(context, context.y(0)));

export const Log = unary('Log', [1, 6, 13], ({ build, dy, x }) => build.op('Div', [dy[0]!, x(0)]));

/** f' = 1 / (2y). */
export const Sqrt = unary(
  'Sqrt',
  [1, 6, 13],
  ({ build, dy, y }) => build.op('Div', [build.op('Mul', [dy[0]!, build.scalar(0.5)]), y(0)]),
  Math.sqrt,
);

export const Neg = unary('Neg', [1, 6, 13], ({ build, dy }) => build.op('Neg', [dy[0]!]), negated);

export const Abs = unary(
  'Abs',
  [1, 6, 13],
  (context) => times(context, context.build.op('Sign', [context.x(0)])),
  Math.abs,
);

/** f' = -1/x² = -y². */
export const Reciprocal = unary(
  'Reciprocal',
  [1, 6, 13],
  (context) => {
    const { build, y } = context;
    return times(context, build.op('Neg', [build.op('Mul', [y(0), y(0)])]));
  },
  (x) => 1 / x,
);

/** f' = 2/√π · e^(-x²). */
export const Erf = unary('Erf', [9, 13], (context) => {
  const { build, x } = context;
  const bell = build.op('Exp', [build.op('Neg', [build.op('Mul', [x(0), x(0)])])]);
  return times(context, build.op('Mul', [bell, build.scalar(2 / Math.sqrt(Math.PI))]));
});

/** f = x·Φ(x), f' = Φ(x) + x·φ(x); with approximate="tanh", Φ ≈ (1 + tanh u)/2, u = √(2/π)·(x + 0.044715·x³). */
export const Gelu = unary('Gelu', [20], (context) => {
  const { build, node, x } = context;
  const square = build.op('Mul', [x(0), x(0)]);
  const half = (value: string) =>
    build.op('Mul', [build.op('Add', [value, build.scalar(1)]), build.scalar(0.5)]);
  if (stringAttribute(node, 'approximate', 'none') === 'tanh') {
    const scale = Math.sqrt(2 / Math.PI);
    const cubic = build.op('Add', [build.op('Mul', [square, build.scalar(0.044715)]), build.scalar(1)]);
    const t = build.op('Tanh', [build.op('Mul', [build.op('Mul', [x(0), build.scalar(scale)]), cubic])]);
    // x · dΦ/dx = x/2 · (1 - t²) · √(2/π) · (1 + 3·0.044715·x²)
    const slope = build.op('Add', [build.op('Mul', [square, build.scalar(3 * 0.044715)]), build.scalar(1)]);
    const rest = build.op('Sub', [build.scalar(1), build.op('Mul', [t, t])]);
    const inner = build.op('Mul', [build.op('Mul', [rest, slope]), build.scalar(scale / 2)]);
    return times(context, build.op('Add', [half(t), build.op('Mul', [x(0), inner])]));
  }
  const below = half(build.op('Erf', [build.op('Mul', [x(0), build.scalar(Math.SQRT1_2)])]));
  const bell = build.op('Exp', [build.op('Mul', [square, build.scalar(-0.5)])]);
  const density = build.op('Mul', [bell, build.scalar(1 / Math.sqrt(2 * Math.PI))]);
  return times(context, build.op('Add', [below, build.op('Mul', [x(0), density])]));
});

/**
 * A row: dx is the gradient of the input, called only where somebody needs it; `fold` is the function of a number for
 * those that float64 computes exactly enough to round to what the engine computes (scales of attention, weights).
 */
function unary<const Name extends string>(
  name: Name,
  since: readonly number[],
  dx: (context: GradientContext) => string,
  fold?: (x: number) => number,
) {
  return defineOp({
    schema: { name, since, inputs: [1, 1], outputs: [1, 1] },
    shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
    gradient: (context) => [context.needs(0) ? dx(context) : undefined],
    coupling: passLabels,
    ...(fold !== undefined && {
      fold: (context: ShapeContext) =>
        foldElementWise(context, (x) => (typeof x === 'number' ? fold(x) : null)),
    }),
  });
}

/** An integer 0 has no sign, which JavaScript's -0 would bring. */
function negated(x: number): number {
  return x === 0 ? 0 : -x;
}

/** dy · factor. */
function times({ build, dy }: GradientContext, factor: string): string {
  return build.op('Mul', [dy[0]!, factor]);
}

/** 1 where 0 < value < 1, else 0, for values in [0, 1]. */
function ramp(context: GradientContext, value: string): string {
  const { build } = context;
  return build.op('Mul', [step(build, value), step(build, build.op('Sub', [build.scalar(1), value]))]);
}
