import { elementCount } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import { axisOf, mergedDim, requiredType } from './dims.ts';
import { defineOp } from './op.ts';
import { coupleReshape } from './reshape.ts';

/** To two axes, split before `axis`. The label of flat position i is that of channel i div (H·W). */
export const Flatten = defineOp({
  schema: { name: 'Flatten', since: [1, 9, 11, 13, 21], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const { dtype, shape } = requiredType(node, inputs, 0);
    if (shape === undefined) return [{ dtype, shape: [null, null] }];
    const given = intAttribute(node, 'axis', 1);
    const axis = given === shape.length ? given : axisOf(node, given, shape.length);
    return [{ dtype, shape: [mergedDim(shape.slice(0, axis)), mergedDim(shape.slice(axis))] }];
  },
  gradient: ({ build, dy, needs, xShape }) => [
    needs(0) ? build.op('Reshape', [dy[0], build.ints(xShape(0))]) : undefined,
  ],
  coupling: (context) => {
    coupleReshape(context);
  },
  fold: ({ node, constant }) => {
    const x = constant(0);
    if (x === undefined) return undefined;
    const given = intAttribute(node, 'axis', 1);
    const axis = given < 0 ? given + x.shape.length : given;
    return { ...x, shape: [elementCount(x.shape.slice(0, axis)), elementCount(x.shape.slice(axis))] };
  },
});
