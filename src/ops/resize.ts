import { elementCount, float32Tensor, floatsOf } from '../base/tensor.ts';
import { floatAttribute, intAttribute, intsAttribute, stringAttribute } from '../graph/attributes.ts';
import type { AttributeValues } from '../graph/build.ts';
import type { Attribute, Dim, Node, Shape, ValueType } from '../graph/model.ts';
import { axisOf, requiredType } from './dims.ts';
import { reshape, transpose } from './emit.ts';
import { MissingRuleError, ShapeError } from './errors.ts';
import { alongAxis, labelledAxes } from './label-tensor.ts';
import {
  type CouplingContext,
  defineOp,
  type GradientContext,
  type ShapeContext,
  type TrainingContext,
} from './op.ts';
import { elementsAt } from './partial.ts';
import { rewriteSizes } from './stated-sizes.ts';

/**
 * Interpolates along axes, by factors (`scales`) or to sizes (`sizes`). Since opset 18 both may name some axes only.
 * Output sizes are ⌊size · scale⌋.
 */
export const Resize = defineOp({
  schema: { name: 'Resize', since: [10, 11, 13, 18, 19], inputs: [1, 4], outputs: [1, 1] },
  shape: resized,
  gradient: (context) => [context.needs(0) ? interpolateBack(context) : undefined],
  training: writeResize,
  coupling: couple,
});

/** Resize as it was until opset 9: factors are an attribute before opset 9, an input in it. */
export const Upsample = defineOp({
  schema: { name: 'Upsample', since: [1, 7, 9, 10], inputs: [1, 2], outputs: [1, 1] },
  shape: resized,
  gradient: (context) => [context.needs(0) ? interpolateBack(context) : undefined],
  training: writeResize,
  coupling: couple,
});

/** What a node asks for: a factor or a size for each of `axes`; undefined: computed at run time. */
interface Request {
  readonly axes: readonly number[];
  readonly scales?: readonly number[] | undefined;
  readonly sizes?: readonly Dim[] | undefined;
}

function resized(context: ShapeContext): ValueType[] {
  const { node, inputs } = context;
  const { dtype, shape } = requiredType(node, inputs, 0);
  if (shape === undefined) return [{ dtype }];
  const { axes, scales, sizes } = requestOf(context, shape.length);
  const result: Dim[] = [...shape];
  const known = axes.map((axis) => shape[axis]!);
  const policy = stringAttribute(node, 'keep_aspect_ratio_policy', 'stretch');
  for (const [i, axis] of axes.entries()) {
    const size = known[i]!;
    if (sizes !== undefined) result[axis] = policy === 'stretch' ? sizes[i]! : null;
    else if (scales === undefined || (isCropping(node) && scales[i] !== 1)) result[axis] = null;
    else if (typeof size === 'number') result[axis] = scaledSize(size, scales[i]!);
    else if (scales[i] !== 1) result[axis] = null;
  }
  if (sizes !== undefined && policy !== 'stretch') keepAspect(result, axes, known, sizes, policy);
  return [{ dtype, shape: result }];
}

/** One factor for all axes: the smallest (`not_larger`) or largest that meets the sizes; halves are rounded up. */
function keepAspect(
  result: Dim[],
  axes: readonly number[],
  from: readonly Dim[],
  to: readonly Dim[],
  policy: string,
): void {
  if (![...from, ...to].every((size) => typeof size === 'number')) return;
  const factors = axes.map((_, i) => Number(to[i]) / Number(from[i]));
  const factor = policy === 'not_larger' ? Math.min(...factors) : Math.max(...factors);
  for (const [i, axis] of axes.entries()) result[axis] = Math.floor(factor * Number(from[i]) + 0.5);
}

function requestOf(
  context: Pick<ShapeContext, 'node' | 'opset' | 'constant'> & Partial<Pick<ShapeContext, 'partial'>>,
  rank: number,
): Request {
  const { node, opset } = context;
  const axes = opset >= 18 ? intsAttribute(node, 'axes')?.map((axis) => axisOf(node, axis, rank)) : undefined;
  const all = axes ?? Array.from({ length: rank }, (_, axis) => axis);
  const check = <T>(values: readonly T[] | undefined, input: number) => {
    if (values !== undefined && values.length !== all.length)
      throw new ShapeError(node, input, `has ${values.length} elements for ${all.length} axes`);
    return values;
  };
  const scalesAt = (input: number) => {
    const tensor = context.constant(input);
    return tensor === undefined ? undefined : [...floatsOf(tensor)];
  };
  if (node.opType === 'Upsample' && opset < 9) {
    const [height, width] = [floatAttribute(node, 'height_scale', 1), floatAttribute(node, 'width_scale', 1)];
    return { axes: all, scales: check(floatsAttribute(node, 'scales') ?? [1, 1, height, width], 0) };
  }
  if (node.opType === 'Upsample' || opset < 11) return { axes: all, scales: check(scalesAt(1), 1) };
  if (!node.inputs[3]) return { axes: all, scales: check(scalesAt(2), 2) };
  return { axes: all, sizes: check(elementsAt({ ...context, inputs: [] }, 3)?.elements, 3) };
}

function floatsAttribute(node: Node, name: string): readonly number[] | undefined {
  const attribute: Attribute | undefined = node.attributes.get(name);
  return attribute?.kind === 'floats' ? attribute.value : undefined;
}

/** In float32, as runtimes compute it: ⌊7 · 1.7142857⌋ is 12, not 11. */
function scaledSize(size: number, scale: number): number {
  return Math.floor(Math.fround(Math.fround(scale) * size));
}

/** Whether a region of the input is resized rather than all of it. */
function isCropping(node: Node): boolean {
  return stringAttribute(node, 'coordinate_transformation_mode') === 'tf_crop_and_resize';
}

/** Channels pass where their axis keeps its size; where the node states sizes for all axes, that of the channels follows. */
function couple(context: CouplingContext): void {
  const { node } = context;
  const labels = context.labels(0);
  if (labels === undefined) return;
  const [from, to] = [context.xShape(0), context.yShape(0)];
  const labelled = labelledAxes(labels);
  const request = requestOf(context, labels.shape.length);
  const { axes, scales, sizes } = request;
  const isKept = (axis: number) => {
    const at = axes.indexOf(axis);
    if (at < 0) return true;
    if (isCropping(node)) return false;
    return scales !== undefined ? scales[at] === 1 : from?.[axis] === to?.[axis] && from?.[axis] !== null;
  };
  if (!labelled.every(isKept)) {
    context.freeze(labels.data, `${node.opType} interpolates between these channels`);
    return;
  }
  context.produce(0, labels);
  const counted = labelled.filter((axis) => axes.includes(axis));
  if (scales !== undefined || counted.length === 0) return;
  const places = counted.map((axis) => axes.indexOf(axis));
  const isFollowing =
    sizes !== undefined &&
    rewriteSizes(
      context,
      3,
      places,
      (pruned) => new Map(counted.map((axis, i) => [places[i]!, pruned.kept(alongAxis(labels, axis))])),
    );
  if (!isFollowing) context.freeze(labels.data, 'is counted in sizes that the graph computes');
}

/**
 * Factors that resize `from` to `to` just as sizes would; undefined where a size that changes is not known, or where no
 * factor in float32 gives exactly that size.
 */
export function scalesBetween(from: Shape, to: Shape): number[] | undefined {
  const scales = to.map((size, axis) => {
    const old = from[axis];
    if (size !== null && size === old) return 1;
    return typeof size === 'number' && typeof old === 'number' ? Math.fround(size / old) : Number.NaN;
  });
  const isExact = to.every((size, axis) => {
    const old = from[axis];
    return scales[axis] === 1 || (typeof old === 'number' && scaledSize(old, scales[axis]!) === size);
  });
  return isExact ? scales : undefined;
}

/**
 * Interpolation is linear, and along each axis the same for every line: y = A·x with A [out, in]. So dx = Aᵀ·dy, one
 * product for each axis that changes.
 */
function interpolateBack(context: GradientContext): string {
  const { node, opset, build, xShape, yShape } = context;
  const [from, to] = [xShape(0), yShape(0)];
  const { axes, scales } = requestOf(context, from.length);
  const read = readingOf(node, opset);
  let value = context.dy[0]!;
  const shape = [...to];
  for (let axis = 0; axis < from.length; axis++) {
    const [size, count] = [from[axis]!, to[axis]!];
    const scale = axes.includes(axis) ? (scales?.[axes.indexOf(axis)] ?? count / size) : 1;
    if (scale === 1) continue;
    const matrix = interpolation(read, size, count, Math.fround(scale));
    const before = elementCount(shape.slice(0, axis));
    const after = elementCount(shape.slice(axis + 1));
    shape[axis] = size;
    if (after === 1) {
      const rows = reshape(build, value, [before, count]);
      value = build.op('MatMul', [rows, build.constant(float32Tensor([count, size], matrix))]);
    } else {
      const columns = build.constant(float32Tensor([count, size], matrix));
      value = build.op('MatMul', [
        transpose(build, columns, [1, 0]),
        reshape(build, value, [before, count, after]),
      ]);
    }
    value = reshape(build, value, shape);
  }
  return value;
}

interface Reading {
  readonly isLinear: boolean;
  /** The position in an axis of `size` that output `i` of `count` reads. */
  readonly position: (i: number, scale: number, size: number, count: number) => number;
  readonly nearest: (position: number) => number;
}

/** A [count, size], row-major: output i reads position j of the input with weight A[i, j]. */
function interpolation(read: Reading, size: number, count: number, scale: number): Float32Array {
  const matrix = new Float32Array(count * size);
  const inside = (position: number) => Math.min(Math.max(position, 0), size - 1);
  for (let i = 0; i < count; i++) {
    const position = read.position(i, scale, size, count);
    if (read.isLinear) {
      const low = Math.floor(inside(position));
      const share = inside(position) - low;
      matrix[i * size + low]! += 1 - share;
      matrix[i * size + inside(low + 1)]! += share;
    } else matrix[i * size + inside(read.nearest(position))] = 1;
  }
  return matrix;
}

/**
 * In a training graph (opset 17) factors or sizes are given for all axes, and what was fixed before opset 11 is said: that
 * positions count from the first corner, and that the one below is the nearest.
 */
function writeResize(context: TrainingContext): void {
  const { node, opset, build, x, xShape } = context;
  const isPlain =
    intAttribute(node, 'antialias', 0) === 0 &&
    stringAttribute(node, 'keep_aspect_ratio_policy', 'stretch') === 'stretch';
  if (!isPlain) throw new MissingRuleError(node, 'for antialiasing or a kept aspect ratio');
  const attributes = new Map([...node.attributes].filter(([name]) => !OTHER_VERSIONS.has(name)));
  const named = opset >= 18 ? intsAttribute(node, 'axes') : undefined;
  if (opset >= 11 && named === undefined) {
    const inputs = node.inputs.map((name, input) => (name === '' ? undefined : x(input)));
    write(inputs, Object.fromEntries(attributes));
    return;
  }
  const shape = xShape(0);
  const { axes, scales, sizes } = requestOf(context, shape.length);
  const whole = shape.map((size, axis) => ({ size, at: axes.indexOf(axis) }));
  if (scales !== undefined) {
    const factors = build.floats(whole.map(({ at }) => (at < 0 ? 1 : scales[at]!)));
    const old = { coordinate_transformation_mode: 'asymmetric', nearest_mode: 'floor' };
    write([x(0), undefined, factors], { ...Object.fromEntries(attributes), ...(opset < 11 && old) });
  } else if (sizes?.every((size) => typeof size === 'number')) {
    const all = build.ints(whole.map(({ size, at }) => (at < 0 ? size : sizes[at]!)));
    write([x(0), undefined, undefined, all], Object.fromEntries(attributes));
  } else throw new MissingRuleError(node, 'for sizes that are computed');

  function write(inputs: readonly (string | undefined)[], given: AttributeValues): void {
    build.ops('Resize', inputs, given, { outputs: [node.outputs[0]!], name: node.name });
  }
}

/** Attributes that Resize does not have in opset 17: what they say is refused or given as inputs. */
const OTHER_VERSIONS: ReadonlySet<string> = new Set([
  'antialias',
  'axes',
  'height_scale',
  'keep_aspect_ratio_policy',
  'scales',
  'width_scale',
]);

/** By `coordinate_transformation_mode`; others have no gradient here. */
const POSITIONS: Readonly<Record<string, Reading['position']>> = {
  half_pixel: (i, scale) => (i + 0.5) / scale - 0.5,
  pytorch_half_pixel: (i, scale, _, count) => (count > 1 ? (i + 0.5) / scale - 0.5 : 0),
  align_corners: (i, _, size, count) => (count > 1 ? (i * (size - 1)) / (count - 1) : 0),
  asymmetric: (i, scale) => i / scale,
};

/** By `nearest_mode`. */
const NEAREST: Readonly<Record<string, Reading['nearest']>> = {
  round_prefer_floor: (position) => Math.ceil(position - 0.5),
  round_prefer_ceil: (position) => Math.floor(position + 0.5),
  floor: Math.floor,
  ceil: Math.ceil,
};

/** @throws MissingRuleError for cubic interpolation, antialiasing and other ways that the gradient does not know */
function readingOf(node: Node, opset: number): Reading {
  const mode = stringAttribute(node, 'mode', 'nearest');
  const isOld = opset < 11;
  const position =
    POSITIONS[stringAttribute(node, 'coordinate_transformation_mode', isOld ? 'asymmetric' : 'half_pixel')];
  const nearest = NEAREST[stringAttribute(node, 'nearest_mode', isOld ? 'floor' : 'round_prefer_floor')];
  if ((mode !== 'nearest' && mode !== 'linear') || position === undefined || nearest === undefined)
    throw new MissingRuleError(node, 'for this way of interpolation');
  return { isLinear: mode === 'linear', position, nearest };
}
