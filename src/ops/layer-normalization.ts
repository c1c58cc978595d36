import { elementCount } from '../base/tensor.ts';
import { floatAttribute, intAttribute } from '../graph/attributes.ts';
import type { Node } from '../graph/model.ts';
import { DEFAULT_EPSILON } from './batch-normalization.ts';
import { axisOf } from './dims.ts';
import { reduceTo } from './emit.ts';
import { ShapeError } from './errors.ts';
import { labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp, type GradientContext, type ShapeContext } from './op.ts';

/**
 * y = scale · (x − mean) / √(var + ε) + B over `axis` and all axes that follow; mean and 1 / √(var + ε) are optional
 * outputs. Source: Ba et al. 2016, in ONNX's definition (opset 17).
 */
export const LayerNormalization = defineOp({
  schema: { name: 'LayerNormalization', since: [17], inputs: [2, 3], outputs: [1, 3] },
  shape: layerShape,
  gradient: layerGradient,
  coupling: coupleLayer,
  /** Centre, square, scale and shift: about one multiply-add per element for mean, variance and output each. */
  cost: ({ outputs: [y] }) => ({ macs: 3 * elementCount(y!) }),
});

function layerShape({ node, inputs: [x, scale, bias] }: ShapeContext) {
  const dtype = x?.dtype ?? 'float32';
  const { shape } = x ?? {};
  if (shape === undefined) return node.outputs.map(() => ({ dtype }));
  const first = firstAxis(node, shape.length);
  for (const [i, parameter] of [scale, bias].entries()) {
    const rank = parameter?.shape?.length ?? 0;
    if (rank > shape.length) {
      throw new ShapeError(node, i + 1, `has rank ${rank}, input 0 has ${shape.length}`);
    }
    for (const [back, size] of [...(parameter?.shape ?? [])].reverse().entries()) {
      const other = shape[shape.length - 1 - back];
      if (typeof size === 'number' && typeof other === 'number' && size !== other && size !== 1) {
        throw new ShapeError(node, i + 1, `has size ${size} where input 0 has ${other}`);
      }
    }
  }
  const statistics = { dtype, shape: shape.map((size, axis) => (axis < first ? size : 1)) };
  return node.outputs.map((_, output) => (output === 0 ? { dtype, shape } : statistics));
}

/** With x̂ = (x − mean) · r, r = 1 / √(var + ε) and g = dy · scale: dx = r · (g − mean(g) − x̂ · mean(g · x̂)). */
function layerGradient(context: GradientContext) {
  const {
    build,
    node,
    dy: [dy],
  } = context;
  if (dy === undefined) return [];
  const shape = context.xShape(0);
  const first = firstAxis(node, shape.length);
  const axes = shape.flatMap((_, axis) => (axis < first ? [] : [axis]));
  const mean = (value: string) => build.op('ReduceMean', [value], { axes, keepdims: 1 });
  const centred = build.op('Sub', [context.x(0), mean(context.x(0))]);
  const variance = mean(build.op('Mul', [centred, centred]));
  const epsilon = build.scalar(floatAttribute(node, 'epsilon', DEFAULT_EPSILON));
  const r = build.op('Reciprocal', [build.op('Sqrt', [build.op('Add', [variance, epsilon])])]);
  const normal = build.op('Mul', [centred, r]);
  const dX = () => {
    const g = build.op('Mul', [dy, context.x(1)]);
    const along = build.op('Mul', [normal, mean(build.op('Mul', [g, normal]))]);
    return build.op('Mul', [r, build.op('Sub', [build.op('Sub', [g, mean(g)]), along])]);
  };
  const dScale = () => reduceTo(build, build.op('Mul', [dy, normal]), shape, context.xShape(1));
  return [
    context.needs(0) ? dX() : undefined,
    context.needs(1) ? dScale() : undefined,
    (node.inputs[2] ?? '') !== '' && context.needs(2)
      ? reduceTo(build, dy, shape, context.xShape(2))
      : undefined,
  ];
}

/**
 * Channels pass. Along a normalised axis fewer of them give another mean and variance, which is what normalisation over
 * the rest means, but not what the masked network computes.
 */
function coupleLayer(context: CouplingContext): void {
  const labels = context.labels(0);
  if (labels === undefined) return;
  const rank = labels.shape.length;
  const [axis, ...more] = labelledAxes(labels);
  if (axis === undefined || more.length > 0) {
    context.freeze(labels.data, 'LayerNormalization mixes channels that do not lie along one axis');
    return;
  }
  const size = labels.shape[axis]!;
  for (const input of [1, 2]) {
    if ((context.node.inputs[input] ?? '') === '') continue;
    const shape = context.xShape(input);
    const own = axis - (rank - (shape?.length ?? 0));
    if (shape !== undefined && (own < 0 || shape[own] === 1)) continue;
    if (shape?.[own] === size && context.isParameter(input)) context.bind(input, own, labels.data);
    else {
      context.freeze(labels.data, 'LayerNormalization has a computed scale or bias that cannot be cut');
      return;
    }
  }
  if (axis >= firstAxis(context.node, rank)) {
    context.inexact(labels.data, 'LayerNormalization takes mean and variance over these channels');
  }
  context.produce(0, labels);
}

function firstAxis(node: Node, rank: number): number {
  return axisOf(node, intAttribute(node, 'axis', -1), rank);
}
