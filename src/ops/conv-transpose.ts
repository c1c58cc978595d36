import { elementCount } from '../base/tensor.ts';
import { intAttribute, intsAttribute, stringAttribute } from '../graph/attributes.ts';
import type { Dim, Node } from '../graph/model.ts';
import { alongAxis, freezeInputs, labelsAlong } from './channels.ts';
import { compound } from './compound.ts';
import { bindBias, checkKernelShape, eachRepeated, hasInput, sameInEveryGroup, tiled } from './conv.ts';
import { planar, planarAttributes } from './conv-gradients.ts';
import { reshape, slice } from './emit.ts';
import { MissingRuleError, ShapeError } from './errors.ts';
import { type CouplingContext, defineOp, type GradientContext } from './op.ts';
import { reach, type Windows } from './windows.ts';

/**
 * The transposed convolution: each input position adds its value times the kernel to the output from y·stride − padBegin
 * on. The weight is [C, O / group, spatial…]: its axes are those of a convolution from O to C channels, whose gradient
 * this is.
 */
export const ConvTranspose = defineOp({
  schema: { name: 'ConvTranspose', since: [1, 11, 22], inputs: [2, 3], outputs: [1, 1] },
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
    const [channels, from, perGroup] = [shape[1], w.shape[0], w.shape[1]];
    if (typeof channels === 'number' && typeof from === 'number' && from !== channels) {
      throw new ShapeError(node, 0, `has ${channels} channels, the weight expects ${from}`);
    }
    if (typeof from === 'number' && from % group !== 0) {
      throw new ShapeError(node, 1, `has ${from} input channels, not a multiple of group ${group}`);
    }
    const filters: Dim = typeof perGroup === 'number' ? perGroup * group : null;
    const kernel = w.shape.slice(2);
    checkKernelShape(node, kernel);
    const spatial = shape.slice(2).map((size, i): Dim => {
      const fixed = outputShape(node, shape.length - 2)?.[i];
      if (fixed !== undefined) return fixed;
      if (typeof size !== 'number' || typeof kernel[i] !== 'number') return null;
      return axisGeometry(node, shape.length - 2, i, size, kernel[i]).output;
    });
    return [{ dtype, shape: [shape[0]!, filters, ...spatial] }];
  },
  shapeOfWeight({ node, inputs: [, w] }) {
    if (w?.shape === undefined || w.shape.length < 3) return undefined;
    const [, perGroup, ...kernel] = w.shape;
    const filters = typeof perGroup === 'number' ? perGroup * intAttribute(node, 'group', 1) : null;
    return { dtype: w.dtype, shape: [null, filters, ...kernel.map(() => null)] };
  },
  gradient: backward,
  coupling: couple,
  cost({ inputs: [x, w] }) {
    // Each input element is spread over the weight slice of its channel.
    return { macs: x === undefined || w === undefined ? 0 : elementCount(x) * elementCount(w.slice(1)) };
  },
});

/** dX is the convolution of dY by the same weight; dW is the weight's gradient of that convolution with X as its dY. */
function backward(context: GradientContext): (string | undefined)[] {
  const { build, node } = context;
  const dy = context.dy[0];
  if (dy === undefined) return [];
  const [xShape, wShape, yShape] = [context.xShape(0), context.xShape(1), context.yShape(0)];
  const spatial = xShape.length - 2;
  if (spatial !== 1 && spatial !== 2) throw new MissingRuleError(node, `in ${spatial} spatial dimensions`);
  const axes = wShape
    .slice(2)
    .map((kernel, i) => axisGeometry(node, spatial, i, xShape[i + 2]!, kernel, yShape[i + 2]));
  const windows: Windows = {
    kernel: wShape.slice(2),
    strides: axes.map((axis) => axis.stride),
    dilations: axes.map((axis) => axis.dilation),
    padsBegin: axes.map((axis) => axis.padBegin),
    padsEnd: axes.map((axis) => Math.max(0, axis.padEnd)),
  };
  // What lies beyond the last kernel's reach (a negative pad at the end) got nothing but the bias.
  const reached = axes.map((axis) => axis.output + Math.min(0, axis.padEnd));
  const isCropped = axes.some((axis) => axis.padEnd < 0);
  const seen = isCropped
    ? slice(
        build,
        dy,
        reached.map((count, i) => ({ axis: i + 2, start: 0, count })),
      )
    : dy;
  const g = planar(build, seen, [yShape[0]!, yShape[1]!, ...reached]);
  const attributes = planarAttributes(windows, intAttribute(node, 'group', 1));
  const lowered = (value: string, shape: readonly number[]) =>
    spatial === 1 ? reshape(build, value, shape) : value;
  return [
    context.needs(0)
      ? lowered(build.op('Conv', [g, planar(build, context.x(1), wShape)], attributes), xShape)
      : undefined,
    context.needs(1)
      ? lowered(
          compound(build, 'ConvWeightGradient', [g, planar(build, context.x(0), xShape)], attributes),
          wShape,
        )
      : undefined,
    hasInput(node, 2) && context.needs(2)
      ? compound(build, 'ChannelSum', [planar(build, dy, yShape)])
      : undefined,
  ];
}

interface AxisGeometry {
  readonly stride: number;
  readonly dilation: number;
  readonly padBegin: number;
  /** Output positions cut off at the end; negative: positions added there, which no kernel reaches. */
  readonly padEnd: number;
  readonly output: number;
}

/**
 * How one spatial axis is laid out: of the (size − 1)·stride + reach positions that kernels write to, the output takes
 * `output` from `padBegin` on. Where the output's size is given, the pads follow from it; an odd one goes to the end for
 * SAME_UPPER and to the begin otherwise.
 * @param output the size, where it is known already
 */
function axisGeometry(
  node: Node,
  rank: number,
  axis: number,
  size: number,
  kernel: number,
  output?: number,
): AxisGeometry {
  const list = (name: string, length: number, filler: number) => {
    const values = intsAttribute(node, name) ?? new Array<number>(length).fill(filler);
    if (values.length !== length) {
      throw new ShapeError(
        node,
        0,
        `has ${rank} spatial axes, which ask for ${length} ${name}, not ${values.length}`,
      );
    }
    return values;
  };
  const stride = list('strides', rank, 1)[axis]!;
  const dilation = list('dilations', rank, 1)[axis]!;
  const written = (size - 1) * stride + reach(kernel, dilation);
  const added = list('output_padding', rank, 0)[axis]!;
  const pads = list('pads', 2 * rank, 0);
  const autoPad = stringAttribute(node, 'auto_pad', 'NOTSET');
  const isSame = autoPad === 'SAME_UPPER' || autoPad === 'SAME_LOWER';
  const wanted = outputShape(node, rank)?.[axis] ?? (isSame ? size * stride : undefined);
  let padBegin = autoPad === 'VALID' ? 0 : pads[axis]!;
  let result = output ?? written + added - padBegin - (autoPad === 'VALID' ? 0 : pads[axis + rank]!);
  if (wanted !== undefined) {
    const total = Math.max(0, written + added - wanted);
    padBegin = autoPad === 'SAME_UPPER' ? Math.floor(total / 2) : total - Math.floor(total / 2);
    result = wanted;
  }
  return { stride, dilation, padBegin, padEnd: written - padBegin - result, output: result };
}

/** The output's spatial sizes where the node states them; old files list batch and channels before. */
function outputShape(node: Node, rank: number): readonly number[] | undefined {
  const stated = intsAttribute(node, 'output_shape');
  return stated === undefined || stated.length === 0 ? undefined : stated.slice(-rank);
}

/** As for Conv, with the weight's axes exchanged: axis 0 has a slice for each input, axis 1 one for each output of a group. */
function couple(context: CouplingContext): void {
  const { node } = context;
  const w = context.constant(1);
  const rank = context.xShape(0)?.length ?? w?.shape.length;
  if (w === undefined || !context.isParameter(1) || rank === undefined) {
    freezeInputs(context, 'the weight of a ConvTranspose is computed, not stored');
    return;
  }
  const group = intAttribute(node, 'group', 1);
  const [channels, perGroup] = [w.shape[0]!, w.shape[1]!];
  const input = labelsAlong(context, 0, 1, channels);
  const produced = (labels: Int32Array) => {
    bindBias(context, labels);
    context.produce(0, alongAxis(labels, 1, rank));
  };
  if (input !== undefined) context.bind(1, 0, input);
  if (group > 1 && group === channels && input !== undefined) {
    produced(eachRepeated(input, perGroup));
    context.rewrite(({ kept }) => ({
      attributes: new Map([...node.attributes, ['group', { kind: 'int', value: BigInt(kept(input)) }]]),
    }));
    return;
  }
  if (input !== undefined) sameInEveryGroup(context, input, group);
  if (group > 1 && perGroup === 1) return; // One output of each of several groups cannot go without its group.
  const filters = context.fresh(perGroup);
  context.bind(1, 1, filters);
  produced(tiled(filters, group));
}
