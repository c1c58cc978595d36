import { elementCount } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { AttributeValues, GraphBuilder } from '../graph/build.ts';
import type { Dim, Node } from '../graph/model.ts';
import { alongAxis, freezeInputs, labelsAlong } from './channels.ts';
import { compound } from './compound.ts';
import { reshape } from './emit.ts';
import { MissingRuleError, ShapeError } from './errors.ts';
import { type CouplingContext, defineOp, type GradientContext } from './op.ts';
import { outputSizes, windowsOf } from './windows.ts';

/** Y[n,o,y,x] = Σ X[n,c,y·s−p+i·d,x·s−p+j·d] · W[o,c,i,j] + B[o], within each of `group` equal channel ranges. */
export const Conv = defineOp({
  schema: { name: 'Conv', since: [1, 11, 22], inputs: [2, 3], outputs: [1, 1] },
  shape({ node, inputs: [x, w] }) {
    const dtype = x?.dtype ?? w?.dtype ?? 'float32';
    if (x?.shape === undefined || w?.shape === undefined) return [{ dtype }];
    const { shape } = x;
    if (shape.length < 3)
      throw new ShapeError(node, 0, `has rank ${shape.length}, expected [N, C, spatial…]`);
    if (w.shape.length !== shape.length) {
      throw new ShapeError(node, 1, `has rank ${w.shape.length}, expected ${shape.length} like input 0`);
    }
    const group = intAttribute(node, 'group', 1);
    const [channels, perGroup, count] = [shape[1], w.shape[1], w.shape[0]];
    if (typeof channels === 'number' && typeof perGroup === 'number' && perGroup * group !== channels) {
      throw new ShapeError(
        node,
        0,
        `has ${channels} channels, the weight with group ${group} expects ${perGroup * group}`,
      );
    }
    if (typeof count === 'number' && count % group !== 0) {
      throw new ShapeError(node, 1, `has ${count} output channels, not a multiple of group ${group}`);
    }
    const kernel = w.shape.slice(2);
    if (!kernel.every((size) => typeof size === 'number')) {
      return [{ dtype, shape: [shape[0]!, count ?? null, ...shape.slice(2).map((): Dim => null)] }];
    }
    return [{ dtype, shape: [shape[0]!, count ?? null, ...outputSizes(node, shape.slice(2), kernel)] }];
  },
  gradient(context) {
    const { build, node } = context;
    const dy = context.dy[0];
    if (dy === undefined) return [];
    const rank = context.xShape(0).length;
    if (rank !== 3 && rank !== 4) throw new MissingRuleError(node, 'gradient');
    const attributes = planarAttributes(context);
    const x = lift(build, context.x(0), context.xShape(0));
    const w = lift(build, context.x(1), context.xShape(1));
    const g = lift(build, dy, context.yShape(0));
    const lower = (value: string, input: number) =>
      rank === 3 ? reshape(build, value, context.xShape(input)) : value;
    return [
      context.needs(0) ? lower(compound(build, 'ConvInputGradient', [g, w, x], attributes), 0) : undefined,
      context.needs(1) ? lower(compound(build, 'ConvWeightGradient', [x, g], attributes), 1) : undefined,
      hasInput(node, 2) && context.needs(2) ? compound(build, 'ChannelSum', [g]) : undefined,
    ];
  },
  coupling: couple,
  cost({ inputs: [, w], outputs: [y] }) {
    // Each output element sums over the weight slice of its channel.
    return { macs: w === undefined ? 0 : elementCount(y!) * elementCount(w.slice(1)) };
  },
});

/** The node's windows written out for two spatial axes; one axis is treated as two of which the first has size 1. */
function planarAttributes(context: GradientContext): AttributeValues {
  const windows = windowsOf(context.node, context.xShape(0).slice(2), context.xShape(1).slice(2));
  const two = (values: readonly number[], filler: number) =>
    values.length === 2 ? values : [filler, values[0]!];
  return {
    group: intAttribute(context.node, 'group', 1),
    kernel_shape: two(windows.kernel, 1),
    strides: two(windows.strides, 1),
    dilations: two(windows.dilations, 1),
    pads: [...two(windows.padsBegin, 0), ...two(windows.padsEnd, 0)],
  };
}

function lift(build: GraphBuilder, value: string, shape: readonly number[]): string {
  return shape.length === 3 ? reshape(build, value, [shape[0]!, shape[1]!, 1, shape[2]!]) : value;
}

/**
 * group = 1: the input's labels bind the weight's axis 1, fresh labels its axis 0, the bias and the output.
 * group > 1: a group's inputs and outputs are one unit and go together, and `group` shrinks by the units that went.
 * For a depthwise convolution a unit is one input channel with its outputs.
 */
function couple(context: CouplingContext): void {
  const { node } = context;
  const w = context.constant(1);
  const rank = context.xShape(0)?.length ?? w?.shape.length;
  if (w === undefined || !context.isParameter(1) || rank === undefined) {
    freezeInputs(context, 'the weight of a Conv is computed, not stored');
    return;
  }
  const group = intAttribute(node, 'group', 1);
  const [filters, perGroup] = [w.shape[0]!, w.shape[1]!];
  const input = labelsAlong(context, 0, 1, perGroup * group);
  const bound = (labels: Int32Array) => {
    context.bind(1, 0, labels);
    if (hasInput(node, 2)) {
      if (context.isParameter(2)) context.bind(2, 0, labels);
      else context.freeze(labels, 'the bias of a Conv is computed, not stored');
    }
    context.produce(0, alongAxis(labels, 1, rank));
  };
  if (group === 1) {
    if (input !== undefined) context.bind(1, 1, input);
    bound(context.fresh(filters));
    return;
  }
  if (input === undefined) return;
  const heads = Int32Array.from({ length: group }, (_, g) => input[g * perGroup]!);
  if (perGroup > 1) {
    context.unite(
      input,
      Int32Array.from(input, (_, i) => heads[Math.floor(i / perGroup)]!),
    );
  }
  bound(Int32Array.from({ length: filters }, (_, i) => heads[Math.floor(i / (filters / group))]!));
  context.rewrite(({ kept }) => ({
    attributes: new Map([...node.attributes, ['group', { kind: 'int', value: BigInt(kept(heads)) }]]),
  }));
}

function hasInput(node: Node, index: number): boolean {
  return (node.inputs[index] ?? '') !== '';
}
