import type { ValueType } from '../graph/model.ts';
import { passOverSpace } from './channels.ts';
import { reshape } from './emit.ts';
import { ShapeError } from './errors.ts';
import { defineOp, type GradientContext, type ShapeContext } from './op.ts';

/** The largest value over all spatial positions: [N, C, spatial…] → [N, C, 1…]. */
export const GlobalMaxPool = defineOp({
  schema: { name: 'GlobalMaxPool', since: [1, 22], inputs: [1, 1], outputs: [1, 1] },
  shape: pooledGlobally,
  gradient: (context) => [context.needs(0) ? toLargest(context) : undefined],
  coupling: passOverSpace,
});

/** (Σ |x|^p)^(1/p) over all spatial positions. */
export const GlobalLpPool = defineOp({
  schema: { name: 'GlobalLpPool', since: [1, 2, 22], inputs: [1, 1], outputs: [1, 1] },
  shape: pooledGlobally,
  coupling: passOverSpace,
});

/** The gradient goes to the position of the largest value, the first where several are equal. */
function toLargest({ build, dy, x, xShape }: GradientContext): string {
  const shape = xShape(0);
  const [batch, channels] = [shape[0]!, shape[1]!];
  const flat = reshape(build, x(0), [batch, channels, -1]);
  const position = build.op('ArgMax', [flat], { axis: 2, keepdims: 1 });
  const zeros = build.op('Mul', [flat, build.scalar(0)]);
  const at = build.op('ScatterElements', [zeros, position, reshape(build, dy[0]!, [batch, channels, 1])], {
    axis: 2,
  });
  return reshape(build, at, shape);
}

function pooledGlobally({ node, inputs: [x] }: ShapeContext): ValueType[] {
  const dtype = x?.dtype ?? 'float32';
  if (x?.shape === undefined) return [{ dtype }];
  if (x.shape.length < 3)
    throw new ShapeError(node, 0, `has rank ${x.shape.length}, expected [N, C, spatial…]`);
  return [{ dtype, shape: x.shape.map((size, axis) => (axis < 2 ? size : 1)) }];
}
