import { elementCount } from '../base/tensor.ts';
import { intsAttribute } from '../graph/attributes.ts';
import { passOverSpace } from './channels.ts';
import { compound, defineCompound } from './compound.ts';
import { expand } from './emit.ts';
import { ShapeError } from './errors.ts';
import { defineOp } from './op.ts';

/** The mean over all spatial positions: [N, C, spatial…] → [N, C, 1…]. */
export const GlobalAveragePool = defineOp({
  schema: { name: 'GlobalAveragePool', since: [1, 22], inputs: [1, 1], outputs: [1, 1] },
  shape({ node, inputs: [x] }) {
    const dtype = x?.dtype ?? 'float32';
    if (x?.shape === undefined) return [{ dtype }];
    if (x.shape.length < 3)
      throw new ShapeError(node, 0, `has rank ${x.shape.length}, expected [N, C, spatial…]`);
    return [{ dtype, shape: x.shape.map((size, axis) => (axis < 2 ? size : 1)) }];
  },
  gradient(context) {
    const {
      build,
      dy: [dy],
    } = context;
    if (dy === undefined || !context.needs(0)) return [];
    const attributes = { spatial: context.xShape(0).slice(2) };
    return [compound(build, 'GlobalAveragePoolGradient', [dy], attributes)];
  },
  coupling: passOverSpace,
});

/** dy [N, C, 1…] → dx [N, C, spatial…]: each position gets its share of the mean's gradient. Attribute `spatial`: the sizes. */
export const GlobalAveragePoolGradient = defineCompound({
  schema: { name: 'GlobalAveragePoolGradient', inputs: 1, outputs: 1 },
  shape: ({ node, inputs: [dy] }) => {
    const [batch = null, channels = null] = dy?.shape ?? [];
    return [{ dtype: 'float32', shape: [batch, channels, ...intsAttribute(node, 'spatial', [])] }];
  },
  expand({ node, build, x, xShape }) {
    const spatial = intsAttribute(node, 'spatial', []);
    const share = build.op('Mul', [x(0), build.scalar(1 / elementCount(spatial))]);
    return [expand(build, share, [...xShape(0).slice(0, 2), ...spatial])];
  },
});
