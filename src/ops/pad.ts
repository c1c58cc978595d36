import { elementCount, int64Tensor, numbersOf } from '../base/tensor.ts';
import { intsAttribute, stringAttribute } from '../graph/attributes.ts';
import type { Dim, Node, Shape } from '../graph/model.ts';
import { axisOf, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { concatLabels, labelledAxes } from './label-tensor.ts';
import {
  type CouplingContext,
  defineOp,
  type GradientContext,
  type Labels,
  type TrainingContext,
} from './op.ts';
import { elementsAt, integersAt } from './partial.ts';

/** Adds positions at both ends of axes; `pads` is an attribute before opset 11 and an input since. */
export const Pad = defineOp({
  schema: { name: 'Pad', since: [1, 2, 11, 13, 18, 19, 21], inputs: [1, 4], outputs: [1, 1] },
  shape: (context) => {
    const { node, opset, inputs } = context;
    const { dtype, shape } = requiredType(node, inputs, 0);
    if (shape === undefined) return [{ dtype }];
    const given = opset < 11 ? padsAttribute(node) : elementsAt(context, 1)?.elements;
    if (given === undefined) return [{ dtype, shape: shape.map(() => null) }];
    const axes = node.inputs[3] ? integersAt(context, 3) : undefined;
    if (node.inputs[3] && axes === undefined) return [{ dtype, shape: shape.map(() => null) }];
    return [{ dtype, shape: padded(node, shape, fullPads(node, given, axes, shape.length)) }];
  },
  gradient: (context) => [context.needs(0) ? unpad(context) : undefined],
  // In a training graph (opset 17) the pads are an input for all axes, whatever the model's own opset says.
  training: (context) => {
    const { node, opset, build, x, xShape } = context;
    const value = node.attributes.get('value');
    const inputs =
      opset < 11
        ? [
            x(0),
            build.ints(padsAttribute(node) ?? []),
            value?.kind === 'float' ? build.scalar(value.value) : undefined,
          ]
        : [
            x(0),
            node.inputs[3] ? spreadPads(context, xShape(0).length) : x(1),
            node.inputs[2] ? x(2) : undefined,
          ];
    build.op(
      'Pad',
      inputs,
      { mode: stringAttribute(node, 'mode', 'constant') },
      { outputs: [node.outputs[0]!], name: node.name },
    );
  },
  coupling: couplePad,
});

/** Pads of some axes (input 3) written into pads of all: zeros, with begins at the axes and ends `rank` further on. */
function spreadPads({ build, x }: TrainingContext, rank: number): string {
  const size = build.ints([rank]);
  const axes = build.op('Mod', [build.op('Add', [x(3), size]), size]);
  const positions = build.op('Concat', [axes, build.op('Add', [axes, size])], { axis: 0 });
  return build.op('ScatterElements', [build.ints(new Array<number>(2 * rank).fill(0)), positions, x(1)]);
}

/** Negative pads crop; the gradient of a crop is a pad, so that one rule covers both. */
function unpad(context: GradientContext): string {
  const { node, build, dy, xShape } = context;
  const mode = stringAttribute(node, 'mode', 'constant');
  if (mode !== 'constant') {
    throw new ShapeError(node, 0, `is padded by "${mode}", which has no gradient here (only "constant" has)`);
  }
  const pads = knownPads(context, xShape(0).length);
  if (!pads?.every((count) => typeof count === 'number'))
    throw new ShapeError(node, 1, 'must be constant for the gradient');
  return build.op('Pad', [dy[0], build.ints(pads.map((count) => -count))]);
}

/**
 * Channels pass where the padding is spatial. Padding on the channel axis itself (the parameter-free shortcut of
 * residual networks) makes new channels, of zeros: each may be united with others and go, which changes the pads.
 */
function couplePad(context: CouplingContext): void {
  const { node, opset } = context;
  const labels = context.labels(0);
  if (labels === undefined) return;
  const rank = labels.shape.length;
  const all = knownPads(context, rank);
  const axes = labelledAxes(labels);
  const touched = all?.some(
    (count, i) => count !== 0 && (axes.length > 0 ? axes.includes(i % rank) : i % rank === 1),
  );
  if (touched === false) {
    context.produce(0, labels);
    return;
  }
  const pads = all?.every((count) => typeof count === 'number') ? all : undefined;
  if (pads === undefined) {
    context.freeze(labels.data, 'is padded by amounts that are not constant');
    return;
  }

  const axis = axes[0] ?? 1;
  const before = pads[axis]!;
  const after = pads[axis + rank]!;
  const isPlain = stringAttribute(node, 'mode', 'constant') === 'constant' && before >= 0 && after >= 0;
  const isRewritable = opset < 11 || context.isParameter(1);
  if (!isPlain || !isRewritable || axes.length > 1) {
    context.freeze(labels.data, 'is padded on the channel axis in a way that cannot be rewritten');
    return;
  }
  const named = node.inputs[3]
    ? numbersOf(context.constant(3)!).map((other) => axisOf(node, other, rank, 3)) // Known, as the pads are.
    : undefined;
  const shape = (size: number) => labels.shape.with(axis, size);
  const head: Labels = { shape: shape(before), data: context.fresh(before) };
  const tail: Labels = { shape: shape(after), data: context.fresh(after) };
  context.produce(0, concatLabels([head, labels, tail], axis));
  context.rewrite((pruned) => {
    const full = pads.with(axis, pruned.kept(head.data)).with(axis + rank, pruned.kept(tail.data));
    // Where the node names axes, its pads are of those alone.
    const kept =
      named === undefined ? full : [...named, ...named.map((other) => other + rank)].map((i) => full[i]!);
    return opset < 11
      ? { attributes: new Map([...node.attributes, ['pads', { kind: 'ints', value: kept.map(BigInt) }]]) }
      : { constants: new Map([[1, int64Tensor(kept)]]) };
  });
}

/** Pads as [begin of each axis …, end of each axis …]; amounts that are computed from open sizes are null or names. */
function knownPads(
  context: Pick<CouplingContext, 'node' | 'opset' | 'constant'> & Partial<Pick<CouplingContext, 'partial'>>,
  rank: number,
): readonly Dim[] | undefined {
  const { node, opset } = context;
  const numbers = (input: number) => {
    const tensor = context.constant(input);
    return tensor && elementCount(tensor.shape) <= 2 * rank ? numbersOf(tensor) : undefined;
  };
  const given = opset < 11 ? padsAttribute(node) : (numbers(1) ?? context.partial?.(1)?.elements);
  const axes = node.inputs[3] ? numbers(3) : undefined;
  if (given === undefined || (node.inputs[3] && axes === undefined)) return undefined;
  return fullPads(node, given, axes, rank);
}

function padsAttribute(node: Node): readonly number[] | undefined {
  return intsAttribute(node, 'pads') ?? intsAttribute(node, 'paddings');
}

function fullPads(
  node: Node,
  given: readonly Dim[],
  axes: readonly number[] | undefined,
  rank: number,
): readonly Dim[] {
  const padded = axes ?? Array.from({ length: rank }, (_, axis) => axis);
  if (given.length !== 2 * padded.length) {
    throw new ShapeError(
      node,
      1,
      `has ${given.length} pads for ${padded.length} axes (expected two for each)`,
    );
  }
  const full = new Array<Dim>(2 * rank).fill(0);
  for (const [i, axis] of padded.entries()) {
    const at = axisOf(node, axis, rank, 3);
    full[at] = given[i]!;
    full[at + rank] = given[i + padded.length]!;
  }
  return full;
}

function padded(node: Node, shape: Shape, pads: readonly Dim[]): Shape {
  return shape.map((size, axis): Dim => {
    const [before, after] = [pads[axis]!, pads[axis + shape.length]!];
    if (typeof before !== 'number' || typeof after !== 'number') return null;
    const more = before + after;
    if (typeof size !== 'number') return more === 0 ? size : null;
    if (size + more < 0) throw new ShapeError(node, 1, `takes ${-more} from axis ${axis} of size ${size}`);
    return size + more;
  });
}
