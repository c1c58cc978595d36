import { elementCount } from '../base/tensor.ts';
import { float, floatAttribute, intAttribute } from '../graph/attributes.ts';
import { coupleContraction } from './contraction.ts';
import { reduceTo } from './emit.ts';
import { ShapeError } from './errors.ts';
import { defineOp } from './op.ts';

/** Y = α·A′·B′ + β·C, where A′ and B′ are A and B, transposed if transA and transB say so. */
export const Gemm = defineOp({
  schema: { name: 'Gemm', since: [1, 6, 7, 9, 11, 13], inputs: [2, 3], outputs: [1, 1] },
  shape({ node, inputs: [a, b] }) {
    const dtype = a?.dtype ?? b?.dtype ?? 'float32';
    for (const [i, type] of [a, b].entries()) {
      if (type?.shape !== undefined && type.shape.length !== 2) {
        throw new ShapeError(node, i, `has rank ${type.shape.length}, expected a matrix`);
      }
    }
    const [transA, transB] = [intAttribute(node, 'transA', 0), intAttribute(node, 'transB', 0)];
    const inner = [a?.shape?.[transA ? 0 : 1], b?.shape?.[transB ? 1 : 0]];
    if (typeof inner[0] === 'number' && typeof inner[1] === 'number' && inner[0] !== inner[1]) {
      throw new ShapeError(node, 0, `has inner size ${inner[0]}, input 1 has ${inner[1]}`);
    }
    return [{ dtype, shape: [a?.shape?.[transA ? 1 : 0] ?? null, b?.shape?.[transB ? 0 : 1] ?? null] }];
  },
  shapeOfWeight({ node, inputs: [, b] }) {
    if (b?.shape?.length !== 2) return undefined;
    return { dtype: b.dtype, shape: [null, b.shape[intAttribute(node, 'transB', 0) ? 0 : 1]!] };
  },
  gradient(context) {
    const {
      build,
      node,
      dy: [dy],
    } = context;
    if (dy === undefined) return [];
    const alpha = float(floatAttribute(node, 'alpha', 1));
    const beta = floatAttribute(node, 'beta', 1);
    const [transA, transB] = [intAttribute(node, 'transA', 0), intAttribute(node, 'transB', 0)];
    const [a, b] = [context.x(0), context.x(1)];
    const product = (left: string, right: string, tl: number, tr: number) =>
      build.op('Gemm', [left, right], { alpha, transA: tl, transB: tr });
    const dA = () => (transA ? product(b, dy, transB, 1) : product(dy, b, 0, 1 - transB));
    const dB = () => (transB ? product(dy, a, 1, transA) : product(a, dy, 1 - transA, 0));
    const dC = () => {
      const reduced = reduceTo(build, dy, context.yShape(0), context.xShape(2));
      return beta === 1 ? reduced : build.op('Mul', [reduced, build.scalar(beta)]);
    };
    return [
      context.needs(0) ? dA() : undefined,
      context.needs(1) ? dB() : undefined,
      (node.inputs[2] ?? '') !== '' && context.needs(2) ? dC() : undefined,
    ];
  },
  coupling: coupleContraction,
  cost({ node, inputs: [a], outputs: [y] }) {
    const inner = a?.[intAttribute(node, 'transA', 0) ? 0 : 1] ?? 0;
    return { macs: elementCount(y!) * inner };
  },
});
