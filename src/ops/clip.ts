import { numbersOf, type Tensor } from '../base/tensor.ts';
import { floatAttribute } from '../graph/attributes.ts';
import { passLabels } from './broadcast.ts';
import { requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { foldElementWise } from './fold-element-wise.ts';
import { defineOp, type GradientContext, type ShapeContext } from './op.ts';
import type { PartialTensor } from './partial.ts';

/** Limits to [min, max]; the limits are attributes before opset 11 and optional scalar inputs since. */
export const Clip = defineOp({
  schema: { name: 'Clip', since: [1, 6, 11, 12, 13], inputs: [1, 3], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const x = requiredType(node, inputs, 0);
    for (const limit of [1, 2]) {
      const rank = inputs[limit]?.shape?.length ?? 0;
      // A vector of one element is not a scalar to the specification, but exporters write it and runtimes take it.
      if (rank > 1) throw new ShapeError(node, limit, `must be a scalar, has rank ${rank}`);
    }
    return [x];
  },
  gradient: (context) => [context.needs(0) ? passInside(context) : undefined],
  // In a training graph (opset 17) the limits are inputs whatever the model's own opset says.
  training: ({ node, opset, build, x }) => {
    const [min, max] = opset < 11 ? limitAttributes(node) : [undefined, undefined];
    build.op(
      'Clip',
      opset < 11
        ? [
            x(0),
            min === undefined ? undefined : build.scalar(min),
            max === undefined ? undefined : build.scalar(max),
          ]
        : node.inputs.map((name, input) => (name === '' ? undefined : x(input))),
      {},
      { outputs: [node.outputs[0]!], name: node.name },
    );
  },
  coupling: passLabels,
  fold,
});

function fold(context: ShapeContext): Tensor | PartialTensor | undefined {
  const { node, opset, constant } = context;
  const limits =
    opset < 11
      ? limitAttributes(node)
      : [1, 2].map((input) => {
          const limit = node.inputs[input] ? constant(input) : undefined;
          return limit && numbersOf(limit)[0];
        });
  if (opset >= 11 && [1, 2].some((input) => node.inputs[input] && limits[input - 1] === undefined))
    return undefined;
  const [min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY] = limits;
  const clipped = { ...context, node: { ...node, inputs: node.inputs.slice(0, 1) } };
  return foldElementWise(clipped, (x) => (typeof x === 'number' ? Math.min(Math.max(x, min), max) : null));
}

/** dy where min < x < max, else 0. */
function passInside(context: GradientContext): string {
  const { node, opset, build, dy, x } = context;
  let result = dy[0]!;
  const zero = build.scalar(0);
  const [min, max] =
    opset < 11
      ? limitAttributes(node).map((limit) => (limit === undefined ? undefined : build.scalar(limit)))
      : [1, 2].map((input) => (node.inputs[input] ? limitInput(context, input) : undefined));
  if (min !== undefined) result = build.op('Where', [build.op('Greater', [x(0), min]), result, zero]);
  if (max !== undefined) result = build.op('Where', [build.op('Less', [x(0), max]), result, zero]);
  return result;
}

/** A constant limit as a scalar, so that a vector of one element does not add an axis; else the value itself. */
function limitInput({ build, constant, x }: GradientContext, input: number): string {
  const known = constant(input);
  return known?.dtype === 'float32' ? build.scalar(numbersOf(known)[0]!) : x(input);
}

function limitAttributes(node: GradientContext['node']): (number | undefined)[] {
  return [floatAttribute(node, 'min'), floatAttribute(node, 'max')];
}
