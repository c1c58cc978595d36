import { elementCount } from '../base/tensor.ts';
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
    const shape = context.xShape(0);
    const share = build.op('Mul', [dy, build.scalar(1 / elementCount(shape.slice(2)))]);
    return [expand(build, share, shape)];
  },
  coupling(context) {
    const labels = context.labels(0);
    if (labels === undefined) return;
    if (labels.shape.slice(2).every((size) => size === 1)) context.produce(0, labels);
    else context.freeze(labels.data, 'GlobalAveragePool mixes positions that belong to different channels');
  },
});
