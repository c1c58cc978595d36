import { floatAttribute } from '../graph/attributes.ts';
import { passLabels } from './broadcast.ts';
import { requiredType } from './dims.ts';
import { foldElementWise } from './fold-element-wise.ts';
import { defineOp, type GradientContext } from './op.ts';

/*
 * Element-wise operators of one input that are no activations of common networks, one row each: the versions in which
 * they changed; their function where shape arithmetic uses it; the gradient dx where there is one (the steps have
 * none that would teach anything). Channels pass through whatever the function is.
 */

export const Ceil = element('Ceil', [1, 6, 13], { fold: Math.ceil });
export const Floor = element('Floor', [1, 6, 13], { fold: Math.floor });
/** Halves go to the even neighbour. */
export const Round = element('Round', [11, 22], { fold: roundHalfToEven });
export const Sign = element('Sign', [9, 13], { fold: Math.sign });
export const IsInf = element('IsInf', [10, 20], { dtype: 'bool' });
export const IsNaN = element('IsNaN', [9, 13, 20], { dtype: 'bool' });

export const Cos = element('Cos', [7, 22], {
  dx: ({ build, dy, x }) => build.op('Neg', [build.op('Mul', [dy[0]!, build.op('Sin', [x(0)])])]),
});

export const Sin = element('Sin', [7, 22], {
  dx: ({ build, dy, x }) => build.op('Mul', [dy[0]!, build.op('Cos', [x(0)])]),
});

/** x·tanh(s) with s = ln(1 + eˣ), so f' = t + x·σ(x)·(1 - t²) with t = tanh(s). */
export const Mish = element('Mish', [18, 22], {
  dx: ({ build, dy, x }) => {
    const t = build.op('Tanh', [build.op('Softplus', [x(0)])]);
    const rest = build.op('Sub', [build.scalar(1), build.op('Mul', [t, t])]);
    const slope = build.op('Mul', [build.op('Mul', [x(0), build.op('Sigmoid', [x(0)])]), rest]);
    return build.op('Mul', [dy[0]!, build.op('Add', [t, slope])]);
  },
});

/** x above α, else 0. */
export const ThresholdedRelu = element('ThresholdedRelu', [10, 22], {
  dx: ({ build, dy, node, x }) => {
    const isAbove = build.op('Greater', [x(0), build.scalar(floatAttribute(node, 'alpha', 1))]);
    return build.op('Where', [isAbove, dy[0]!, build.scalar(0)]);
  },
});

/** f' = 1 / √(x² + 1). */
export const Asinh = element('Asinh', [9, 22], {
  dx: ({ build, dy, x }) => build.op('Div', [dy[0]!, build.op('Sqrt', [squarePlusOne(build, x(0))])]),
});

/** f' = 1 / (x² + 1). */
export const Atan = element('Atan', [7, 22], {
  dx: ({ build, dy, x }) => build.op('Div', [dy[0]!, squarePlusOne(build, x(0))]),
});

export const Cosh = element('Cosh', [9, 22], {
  dx: ({ build, dy, x }) => build.op('Mul', [dy[0]!, build.op('Sinh', [x(0)])]),
});

export const Sinh = element('Sinh', [9, 22], {
  dx: ({ build, dy, x }) => build.op('Mul', [dy[0]!, build.op('Cosh', [x(0)])]),
});

/** f' = f² + 1. */
export const Tan = element('Tan', [7, 22], {
  dx: ({ build, dy, y }) => build.op('Mul', [dy[0]!, squarePlusOne(build, y(0))]),
});

/** x less a bias, away from 0: 0 within λ of it. */
export const Shrink = element('Shrink', [9], {
  dx: ({ build, dy, node, x }) => {
    const limit = build.scalar(floatAttribute(node, 'lambd', 0.5));
    return build.op('Where', [
      build.op('Greater', [build.op('Abs', [x(0)]), limit]),
      dy[0]!,
      build.scalar(0),
    ]);
  },
});

function squarePlusOne(build: GradientContext['build'], x: string): string {
  return build.op('Add', [build.op('Mul', [x, x]), build.scalar(1)]);
}

interface Row {
  readonly fold?: (x: number) => number;
  readonly dx?: (context: GradientContext) => string;
  /** Of the result, where it is not the input's. */
  readonly dtype?: 'bool';
}

function element<const Name extends string>(name: Name, since: readonly number[], row: Row = {}) {
  const { fold, dx, dtype } = row;
  return defineOp({
    schema: { name, since, inputs: [1, 1], outputs: [1, 1] },
    shape: ({ node, inputs }) => {
      const x = requiredType(node, inputs, 0);
      return [dtype === undefined ? x : { dtype, shape: x.shape }];
    },
    ...(dx !== undefined && {
      gradient: (context: GradientContext) => [context.needs(0) ? dx(context) : undefined],
    }),
    // A test for values that no trained network computes is not worth a rule.
    ...(dtype === undefined && { coupling: passLabels }),
    ...(fold !== undefined && {
      fold: (context: Parameters<typeof foldElementWise>[0]) =>
        foldElementWise(context, (x) => (typeof x === 'number' ? fold(x) : null)),
    }),
  });
}

function roundHalfToEven(x: number): number {
  const below = Math.floor(x);
  const rest = x - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}
