import { requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { defineOp, type ShapeContext } from './op.ts';
import { integersAt, MAX_FOLDED_ELEMENTS } from './partial.ts';

/** start, start + delta, … below (for a negative delta: above) the limit. */
export const Range = defineOp({
  schema: { name: 'Range', since: [11], inputs: [3, 3], outputs: [1, 1] },
  shape: (context) => {
    const { dtype } = requiredType(context.node, context.inputs, 0);
    return [{ dtype, shape: [progression(context)?.count ?? null] }];
  },
  fold: (context) => {
    const { dtype } = requiredType(context.node, context.inputs, 0);
    const known = progression(context);
    // Floats are added up by the engine, with an error that is its own.
    if (known === undefined || known.count > MAX_FOLDED_ELEMENTS || dtype.startsWith('float'))
      return undefined;
    const elements = Array.from({ length: known.count }, (_, i) => known.start + i * known.delta);
    return { dtype, shape: [known.count], elements };
  },
});

function progression(context: ShapeContext) {
  const [start, limit, delta] = [0, 1, 2].map((input) => integersAt(context, input)?.[0]);
  if (start === undefined || limit === undefined || delta === undefined) return undefined;
  if (delta === 0) throw new ShapeError(context.node, 2, 'is a step of 0');
  // The engine subtracts in the values' own type.
  const span = context.inputs[0]?.dtype === 'float32' ? Math.fround(limit - start) : limit - start;
  return { start, delta, count: Math.max(0, Math.ceil(span / delta)) };
}
