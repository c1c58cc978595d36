import type { GraphBuilder } from '../graph/build.ts';

/**
 * Short hands for the nodes that gradient rules add again and again (standard domain, opset 17, and
 * `com.microsoft` FusedMatMul). Each returns the name of the value it made, or the input's where nothing is to do.
 */
export function reshape(build: GraphBuilder, x: string, shape: readonly number[]): string {
  return build.op('Reshape', [x, build.ints(shape)]);
}

export function transpose(build: GraphBuilder, x: string, perm: readonly number[]): string {
  return build.op('Transpose', [x], { perm });
}

export function reduceSum(build: GraphBuilder, x: string, axes: readonly number[], keepdims = false): string {
  return build.op('ReduceSum', [x, build.ints(axes)], { keepdims: keepdims ? 1 : 0 });
}

export function expand(build: GraphBuilder, x: string, shape: readonly number[]): string {
  return build.op('Expand', [x, build.ints(shape)]);
}

/** A · Bᵀ over the last two axes, batched over the others, without a transposed copy of B. */
export function matMulTransposed(build: GraphBuilder, a: string, b: string): string {
  return build.op('FusedMatMul', [a, b], { transB: 1 }, { domain: 'com.microsoft' });
}

export interface SliceRange {
  readonly axis: number;
  readonly start: number;
  /** How many elements come out, one every `step`. */
  readonly count: number;
  readonly step?: number;
}

/** Takes `count` elements from `start` along each named axis. */
export function slice(build: GraphBuilder, x: string, ranges: readonly SliceRange[]): string {
  const starts = ranges.map((range) => range.start);
  const ends = ranges.map((range) => range.start + (range.count - 1) * (range.step ?? 1) + 1);
  const axes = ranges.map((range) => range.axis);
  const steps = ranges.map((range) => range.step ?? 1);
  return build.op('Slice', [x, build.ints(starts), build.ints(ends), build.ints(axes), build.ints(steps)]);
}

/** Reverses the order along the axes. */
export function flip(build: GraphBuilder, x: string, axes: readonly number[]): string {
  const every = (value: number) => build.ints(axes.map(() => value));
  // An end before the first element, in ONNX's counting from the back: anything at or below -size-1.
  return build.op('Slice', [x, every(-1), every(-(2 ** 31)), build.ints(axes), every(-1)]);
}

/** Adds zeros before and after along every axis; negative counts crop. Returns `x` itself where all are 0. */
export function pad(
  build: GraphBuilder,
  x: string,
  begin: readonly number[],
  end: readonly number[],
): string {
  const all = [...begin, ...end];
  return all.every((count) => count === 0) ? x : build.op('Pad', [x, build.ints(all)]);
}

/** Sums a gradient of shape `from` over the axes along which a value of shape `to` was broadcast. */
export function reduceTo(
  build: GraphBuilder,
  x: string,
  from: readonly number[],
  to: readonly number[],
): string {
  const lead = from.length - to.length;
  const axes = from.flatMap((size, axis) =>
    axis < lead || (to[axis - lead] === 1 && size !== 1) ? [axis] : [],
  );
  if (axes.length === 0) return x;
  const reduced = reduceSum(build, x, axes, true);
  return lead === 0 ? reduced : reshape(build, reduced, to);
}
