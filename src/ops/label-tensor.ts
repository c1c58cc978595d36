import { elementCount } from '../base/tensor.ts';
import type { Labels } from './op.ts';

/**
 * Labels repeated to fill `shape` along the axes where they had size 1.
 * @returns undefined if the labels do not broadcast to the shape
 */
export function expandLabels(labels: Labels, shape: readonly number[]): Labels | undefined {
  const rank = shape.length;
  const missing = rank - labels.shape.length;
  if (missing < 0) return undefined;
  const strides = new Array<number>(rank).fill(0);
  let stride = 1;
  for (let axis = rank - 1; axis >= missing; axis--) {
    const size = labels.shape[axis - missing]!;
    if (size !== 1 && size !== shape[axis]) return undefined;
    strides[axis] = size === 1 ? 0 : stride;
    stride *= size;
  }
  return { shape, data: gathered(labels.data, shape, strides) };
}

/** The smallest labels that broadcast to the same: axes along which nothing changes get size 1. */
export function contractLabels(labels: Labels): Labels {
  let { shape, data } = labels;
  for (let axis = 0; axis < shape.length; axis++) {
    if (shape[axis]! <= 1 || varies({ shape, data }, axis)) continue;
    data = sliceLabels({ shape, data }, axis, 0, 1).data;
    shape = shape.with(axis, 1);
  }
  return { shape, data };
}

/** Labels with their axes permuted: axis i of the result is axis `order[i]` of the labels. */
export function transposeLabels(labels: Labels, order: readonly number[]): Labels {
  const shape = order.map((axis) => labels.shape[axis]!);
  const strides = stridesOf(labels.shape);
  return {
    shape,
    data: gathered(
      labels.data,
      shape,
      order.map((axis) => strides[axis]!),
    ),
  };
}

/** The part from `start` (inclusive) to `end` (exclusive) along one axis. */
export function sliceLabels(labels: Labels, axis: number, start: number, end: number): Labels {
  return gatherLabels(
    labels,
    axis,
    Array.from({ length: end - start }, (_, i) => start + i),
  );
}

/** The slices at `indices` along one axis, in that order. */
export function gatherLabels(labels: Labels, axis: number, indices: readonly number[]): Labels {
  const inner = elementCount(labels.shape.slice(axis + 1));
  const outer = elementCount(labels.shape.slice(0, axis));
  const size = labels.shape[axis]!;
  const data = new Int32Array(outer * indices.length * inner);
  let at = 0;
  for (let o = 0; o < outer; o++) {
    for (const index of indices) {
      const from = (o * size + index) * inner;
      data.set(labels.data.subarray(from, from + inner), at);
      at += inner;
    }
  }
  return { shape: labels.shape.with(axis, indices.length), data };
}

/** Labels one after the other along an axis; all other sizes agree. */
export function concatLabels(parts: readonly Labels[], axis: number): Labels {
  const first = parts[0]!;
  const inner = elementCount(first.shape.slice(axis + 1));
  const outer = elementCount(first.shape.slice(0, axis));
  const total = parts.reduce((sum, part) => sum + part.shape[axis]!, 0);
  const data = new Int32Array(outer * total * inner);
  let at = 0;
  for (let o = 0; o < outer; o++) {
    for (const part of parts) {
      const length = part.shape[axis]! * inner;
      data.set(part.data.subarray(o * length, (o + 1) * length), at);
      at += length;
    }
  }
  return { shape: first.shape.with(axis, total), data };
}

/** The labels along one axis, at the first position of all others. */
export function alongAxis(labels: Labels, axis: number): Int32Array {
  let result = labels;
  for (let other = 0; other < labels.shape.length; other++) {
    if (other !== axis) result = sliceLabels(result, other, 0, 1);
  }
  return result.data;
}

/** Axes along which the labels have more than one position. */
export function labelledAxes(labels: Labels): number[] {
  return labels.shape.flatMap((size, axis) => (size === 1 ? [] : [axis]));
}

function varies(labels: Labels, axis: number): boolean {
  const { shape, data } = labels;
  const inner = elementCount(shape.slice(axis + 1));
  const block = inner * shape[axis]!;
  for (let i = 0; i < data.length; i++) {
    const start = i - (i % block) + (i % inner);
    if (data[i] !== data[start]) return true;
  }
  return false;
}

function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis]!;
  }
  return strides;
}

/** A row-major copy of `shape` out of data with the given strides (0 repeats). */
function gathered(data: Int32Array, shape: readonly number[], strides: readonly number[]): Int32Array {
  const result = new Int32Array(elementCount(shape));
  const position = new Array<number>(shape.length).fill(0);
  let from = 0;
  for (let at = 0; at < result.length; at++) {
    result[at] = data[from]!;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis]!;
      if (++position[axis]! < shape[axis]!) break;
      from -= strides[axis]! * shape[axis]!;
      position[axis] = 0;
    }
  }
  return result;
}
