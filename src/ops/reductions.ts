import type { Dim } from '../graph/model.ts';
import { requiredType } from './dims.ts';
import { expand, reshape } from './emit.ts';
import { checkAxes, foldReduction, type Reduction } from './fold-reduction.ts';
import { labelledAxes } from './label-tensor.ts';
import {
  type CouplingContext,
  defineOp,
  type GradientContext,
  type ShapeContext,
  type TrainingContext,
} from './op.ts';
import { keepsAxes, reduced, reducedAxes, writeReduction } from './reduced-axes.ts';

/*
 * Reductions other than the mean, one row each: the versions in which they changed, the gradient before it is spread
 * over the axes again, the function of two numbers where sizes are reduced by it, and whether they sum. A sum over the
 * axis of channels reads them as a convolution does: those that are gone add as little as zeros would, so x / ‖x‖ prunes.
 * The others compute something else once channels are gone, hence those are frozen. Along other axes channels pass.
 */

export const ReduceSum = reduction('ReduceSum', [1, 11, 13], {
  isSum: true,
  dx: ({ dy }) => dy,
  // In a training graph (opset 17) its axes are an input, and only its; before opset 13 they were an attribute.
  training: ({ node, build, x, xShape }) => {
    const axes = node.inputs[1] ? x(1) : build.ints(reducedAxes(node, xShape(0).length, undefined) ?? []);
    const attributes = { keepdims: keepsAxes(node) ? 1 : 0, noop_with_empty_axes: 1 };
    build.op('ReduceSum', [x(0), axes], attributes, { outputs: [node.outputs[0]!], name: node.name });
  },
  fold: { start: 0, step: (a, b) => a + b },
});

/** The gradient goes to the elements that are the largest. */
export const ReduceMax = reduction('ReduceMax', [1, 11, 12, 13, 18, 20], {
  dx: atResult,
  fold: { start: Number.NEGATIVE_INFINITY, step: Math.max },
});

export const ReduceMin = reduction('ReduceMin', [1, 11, 12, 13, 18, 20], {
  dx: atResult,
  fold: { start: Number.POSITIVE_INFINITY, step: Math.min },
});

/** d/dx = y / x, which is defined where no element is 0. */
export const ReduceProd = reduction('ReduceProd', [1, 11, 13, 18], {
  dx: ({ build, x, dy, y }) => build.op('Div', [build.op('Mul', [dy, y]), x]),
  fold: { start: 1, step: (a, b) => a * b },
});

export const ReduceL1 = reduction('ReduceL1', [1, 11, 13, 18], {
  isSum: true,
  dx: ({ build, x, dy }) => build.op('Mul', [dy, build.op('Sign', [x])]),
  fold: { start: 0, step: (a, b) => a + Math.abs(b) },
});

/** d/dx = x / y. */
export const ReduceL2 = reduction('ReduceL2', [1, 11, 13, 18], {
  isSum: true,
  dx: ({ build, x, dy, y }) => build.op('Mul', [build.op('Div', [dy, y]), x]),
  fold: { start: 0, step: (a, b) => a + b * b, finish: Math.sqrt },
});

export const ReduceSumSquare = reduction('ReduceSumSquare', [1, 11, 13, 18], {
  isSum: true,
  dx: ({ build, x, dy }) => build.op('Mul', [build.op('Mul', [dy, build.scalar(2)]), x]),
  fold: { start: 0, step: (a, b) => a + b * b },
});

/** d/dx = 1 / Σx = e⁻ʸ. */
export const ReduceLogSum = reduction('ReduceLogSum', [1, 11, 13, 18], {
  isSum: true,
  dx: ({ build, dy, y }) => build.op('Mul', [dy, build.op('Exp', [build.op('Neg', [y])])]),
});

/** d/dx = eˣ⁻ʸ. */
export const ReduceLogSumExp = reduction('ReduceLogSumExp', [1, 11, 13, 18], {
  dx: ({ build, x, dy, y }) => build.op('Mul', [dy, build.op('Exp', [build.op('Sub', [x, y])])]),
});

interface Row {
  /** From the gradient and the result (both with the reduced axes at size 1); may broadcast to the input. */
  readonly dx?: (context: {
    readonly build: GradientContext['build'];
    readonly x: string;
    readonly y: string;
    readonly dy: string;
  }) => string;
  readonly training?: (context: TrainingContext) => void;
  readonly fold?: Reduction;
  /** Whether elements that are 0 change nothing. */
  readonly isSum?: boolean;
}

function atResult({ build, x, y, dy }: Parameters<NonNullable<Row['dx']>>[0]): string {
  return build.op('Where', [build.op('Equal', [x, y]), dy, build.scalar(0)]);
}

function reduction<const Name extends string>(name: Name, since: readonly number[], row: Row = {}) {
  const { dx, fold, training, isSum = false } = row;
  return defineOp({
    schema: { name, since, inputs: [1, 2], outputs: [1, 1] },
    shape: (context) => {
      const { node, inputs } = context;
      const { dtype, shape } = requiredType(node, inputs, 0);
      if (shape === undefined) return [{ dtype }];
      const axes = reducedAxes(node, shape.length, context.constant(1));
      // Axes that are computed at run time: the rank is known only where it does not change.
      if (axes === undefined) return [{ dtype, shape: keepsAxes(node) ? shape.map(() => null) : undefined }];
      return [{ dtype, shape: reduced<Dim>(shape, checkAxes(node, axes, shape.length), keepsAxes(node)) }];
    },
    ...(dx !== undefined && {
      gradient: (context: GradientContext) => {
        const { build, node, needs, x, xShape, y } = context;
        const dy = context.dy[0];
        if (!needs(0) || dy === undefined) return [];
        const shape = xShape(0);
        const axes = reducedAxes(node, shape.length, context.constant(1)) ?? [];
        const ones = shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
        const kept = (value: string) => (keepsAxes(node) ? value : reshape(build, value, ones));
        return [expand(build, dx({ build, x: x(0), y: kept(y(0)), dy: kept(dy) }), shape)];
      },
    }),
    training: training ?? ((context: TrainingContext) => writeReduction(name, context)),
    coupling: (context: CouplingContext) => coupleReduction(context, isSum),
    ...(fold !== undefined && { fold: (context: ShapeContext) => foldReduction(context, fold) }),
  });
}

function coupleReduction(context: CouplingContext, isSum: boolean): void {
  const { node } = context;
  const labels = context.labels(0);
  if (labels === undefined) return;
  const axes = reducedAxes(node, labels.shape.length, context.constant(1));
  const isOne = labels.data.length === 1;
  if (axes !== undefined && !isOne && axes.every((axis) => labels.shape[axis] === 1)) {
    context.produce(0, { shape: reduced(labels.shape, axes, keepsAxes(node)), data: labels.data });
    return;
  }
  const endsHere = axes !== undefined && labelledAxes(labels).every((axis) => axes.includes(axis));
  if (!isSum || isOne || !endsHere) context.freeze(labels.data, `${node.opType} reduces over these channels`);
}
