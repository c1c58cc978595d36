import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import type { Dim, ValueType } from '../graph/model.ts';
import { axisOf, requiredType } from './dims.ts';
import { expand, reduceSum } from './emit.ts';
import { MissingRuleError } from './errors.ts';
import { labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp, type ShapeContext } from './op.ts';
import { elementsAt, integersAt } from './partial.ts';

/*
 * Operators that compute along one axis (or some) and keep the others apart: channels pass where they lie on another
 * axis, and are frozen on it, because each of its positions depends on all of them (but where zeros change nothing).
 */

export const ArgMax = argument('ArgMax');
export const ArgMin = argument('ArgMin');

/** The k largest (or smallest) along the axis, and where they were. */
export const TopK = defineOp({
  schema: { name: 'TopK', since: [1, 10, 11, 24], inputs: [1, 2], outputs: [2, 2] },
  shape: (context) => {
    const { node, opset, inputs } = context;
    const { dtype, shape } = requiredType(node, inputs, 0);
    if (shape === undefined) return [{ dtype }, { dtype: 'int64' }];
    const axis = axisOf(node, intAttribute(node, 'axis', -1), shape.length);
    const k = opset < 10 ? intAttribute(node, 'k') : integersAt(context, 1)?.[0];
    const chosen = shape.with(axis, k ?? null);
    return [
      { dtype, shape: chosen },
      { dtype: 'int64', shape: chosen },
    ];
  },
  gradient: (context) => {
    const { node, opset, build, dy, needs, x, xShape } = context;
    if (!needs(0) || dy[0] === undefined) return [];
    if (opset < 10) throw new MissingRuleError(node, 'before opset 10');
    // The forward node may not have asked for the positions.
    const positions = build.ops('TopK', [x(0), x(1)], Object.fromEntries(node.attributes), {
      outputs: 2,
    })[1]!;
    const axis = axisOf(node, intAttribute(node, 'axis', -1), xShape(0).length);
    const zeros = expand(build, build.scalar(0), xShape(0));
    return [build.op('ScatterElements', [zeros, positions, dy[0]], { axis })];
  },
  coupling: (context) => coupleOneAxis(context, intAttribute(context.node, 'axis', -1)),
});

/** The sum of all up to each position of the axis, which is an input. */
export const CumSum = defineOp({
  schema: { name: 'CumSum', since: [11, 14], inputs: [2, 2], outputs: [1, 1] },
  shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
  // Each position is in the sums of those behind it.
  gradient: ({ node, build, dy, needs, x }) => {
    const attributes = {
      exclusive: intAttribute(node, 'exclusive', 0),
      reverse: 1 - intAttribute(node, 'reverse', 0),
    };
    return [needs(0) ? build.op('CumSum', [dy[0], x(1)], attributes) : undefined];
  },
  coupling: (context) =>
    coupleOneAxis(context, Number(elementsAt({ ...context, inputs: [] }, 1)?.elements[0])),
});

/** 1 in the largest position of the axis (before opset 13: of the axis and all that follow, as one), else 0. */
export const Hardmax = defineOp({
  schema: { name: 'Hardmax', since: [1, 11, 13], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
  coupling: (context) => {
    const { node, opset } = context;
    const from = intAttribute(node, 'axis', opset < 13 ? 1 : -1);
    const rank = context.labels(0)?.shape.length ?? 0;
    const first = from < 0 ? from + rank : from;
    const axes = opset < 13 ? Array.from({ length: rank - first }, (_, i) => first + i) : [first];
    coupleOneAxis(context, ...axes);
  },
});

/** Divided by the L1 or L2 norm along the axis. */
export const LpNormalization = defineOp({
  schema: { name: 'LpNormalization', since: [1, 22], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
  // With y = x / n: dx = (dy - n' · Σ dy·y) / n, where n' is y for the Euclidean norm and the sign for the other.
  gradient: ({ node, build, dy, needs, x, y, xShape }) => {
    if (!needs(0) || dy[0] === undefined) return [];
    const axis = axisOf(node, intAttribute(node, 'axis', -1), xShape(0).length);
    const isEuclidean = intAttribute(node, 'p', 2) === 2;
    const norm = build.op(isEuclidean ? 'ReduceL2' : 'ReduceL1', [x(0)], { axes: [axis], keepdims: 1 });
    const slope = isEuclidean ? y(0) : build.op('Sign', [x(0)]);
    const along = reduceSum(build, build.op('Mul', [dy[0], y(0)]), [axis], true);
    const rest = build.op('Sub', [dy[0], build.op('Mul', [slope, along])]);
    return [build.op('Div', [rest, norm])];
  },
  // Channels that are gone add as little to the norm as zeros would.
  coupling: (context) => {
    const axis = intAttribute(context.node, 'axis', -1);
    const labels = context.labels(0);
    const [only, ...more] = labels === undefined ? [] : labelledAxes(labels);
    if (labels === undefined || more.length > 0 || only !== (axis < 0 ? axis + labels.shape.length : axis)) {
      coupleOneAxis(context, axis);
      return;
    }
    context.mixes(0);
    context.produce(0, labels);
  },
});

/** Less the mean and divided by the deviation over some axes, by default all but the channels'. */
export const MeanVarianceNormalization = defineOp({
  schema: { name: 'MeanVarianceNormalization', since: [9, 13], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
  // With d the deviation: dx = (dy - mean(dy) - y · mean(dy·y)) / d.
  gradient: ({ node, build, dy, needs, x, y }) => {
    if (!needs(0) || dy[0] === undefined) return [];
    const axes = intsAttribute(node, 'axes', [0, 2, 3]);
    const mean = (value: string) => build.op('ReduceMean', [value], { axes, keepdims: 1 });
    const centred = build.op('Sub', [x(0), mean(x(0))]);
    const deviation = build.op('Sqrt', [mean(build.op('Mul', [centred, centred]))]);
    const along = build.op('Mul', [y(0), mean(build.op('Mul', [dy[0], y(0)]))]);
    return [build.op('Div', [build.op('Sub', [build.op('Sub', [dy[0], mean(dy[0])]), along]), deviation])];
  },
  coupling: (context) => coupleOneAxis(context, ...intsAttribute(context.node, 'axes', [0, 2, 3])),
});

function argument<const Name extends string>(name: Name) {
  return defineOp({
    schema: { name, since: [1, 11, 12, 13], inputs: [1, 1], outputs: [1, 1] },
    shape: argumentShape,
    coupling: (context) => {
      const { node } = context;
      const axis = intAttribute(node, 'axis', 0);
      const keeps = intAttribute(node, 'keepdims', 1) !== 0;
      coupleOneAxis({ ...context, produce: produceReduced }, axis);

      function produceReduced(output: number, labels: { shape: readonly number[]; data: Int32Array }): void {
        const at = axis < 0 ? axis + labels.shape.length : axis;
        const shape = keeps ? labels.shape : labels.shape.toSpliced(at, 1);
        context.produce(output, { shape, data: labels.data });
      }
    },
  });
}

function argumentShape({ node, inputs }: ShapeContext): ValueType[] {
  const { shape } = requiredType(node, inputs, 0);
  if (shape === undefined) return [{ dtype: 'int64' }];
  const axis = axisOf(node, intAttribute(node, 'axis', 0), shape.length);
  const keeps = intAttribute(node, 'keepdims', 1) !== 0;
  const reduced: Dim[] = keeps ? shape.with(axis, 1) : shape.toSpliced(axis, 1);
  return [{ dtype: 'int64', shape: reduced }];
}

/** @param axes counted from either end; NaN where the axis is not known */
function coupleOneAxis(context: CouplingContext, ...axes: readonly number[]): void {
  const labels = context.labels(0);
  if (labels === undefined) return;
  const rank = labels.shape.length;
  const isApart = (axis: number) => labels.shape[axis < 0 ? axis + rank : axis] === 1;
  if (labels.data.length === 1 || !axes.every(isApart)) {
    context.freeze(labels.data, `${context.node.opType} computes over these channels`);
    return;
  }
  for (const [output, name] of context.node.outputs.entries())
    if (name !== '') context.produce(output, labels);
}
