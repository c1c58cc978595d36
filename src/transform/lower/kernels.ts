import { elementCount } from '../../base/tensor.ts';
import type { GraphBuilder } from '../../graph/build.ts';
import { NCHWC_DOMAIN } from '../../graph/domains.ts';
import type { Values } from './values.ts';

/*
 * Kernels in the order that blocked convolutions read. All of it is done by the engine's two reorders, which can be
 * seen as transposes of a matrix whose columns come in blocks: several times faster than its general Transpose (64→64
 * channels, 3×3: 20 µs against 130).
 */

/** Plain [N, C, H, W] → memory [N, C / b, H, W, b]. */
export function reorderInput(build: GraphBuilder, x: string): string {
  return build.op('ReorderInput', [x], {}, { domain: NCHWC_DOMAIN });
}

/** Memory [N, C / b, H, W, b] → plain, the first `channels` of [N, C, H, W]. */
export function reorderOutput(build: GraphBuilder, x: string, channels: number): string {
  return build.op('ReorderOutput', [x], { channels }, { domain: NCHWC_DOMAIN });
}

/** Memory [N, C / b, H, W, b] → [N, H, W, C]. */
export function channelsLast(build: GraphBuilder, x: string, channels: number): string {
  return build.op('ReorderOutput', [x], { channels, channels_last: 1 }, { domain: NCHWC_DOMAIN });
}

/**
 * [O, I, kh, kw] in the order of the blocked kernels, under the same shape: dense OIHW-block-block, memory
 * [O/b, I/b, kh, kw, b(I), b(O)]; else (depthwise, or a plain input of few channels) [O/b, I, kh, kw, b(O)].
 */
export function reorderWeight(
  values: Values,
  weight: string,
  form: {
    readonly rows: number;
    readonly columns: number;
    readonly kernel: readonly number[];
    readonly isDense: boolean;
  },
): string {
  const { build, block } = values;
  const { rows, columns, kernel, isDense } = form;
  const positions = elementCount(kernel);
  const shape = [rows, columns, ...kernel];
  const outer = reorderInput(build, values.view(weight, [1, rows, columns, positions]));
  if (!isDense || positions === 1) return values.view(outer, shape);
  const squares = (rows * columns) / block ** 2;
  const inner = channelsLast(build, values.view(outer, [squares, block ** 2, ...kernel]), block ** 2);
  return values.view(inner, shape);
}

/**
 * [O, I, kh, kw] as squares, each for a block of O, a block of I and a position: memory [O/b, I/b, kh·kw, b(O), b(I)],
 * shape [squares, b²]. A blocked kernel of a convolution from O to I channels is made of whole squares.
 */
export function squaresOf(
  values: Values,
  weight: string,
  [rows, columns, kh, kw]: readonly [number, number, number, number],
): string {
  const { build, block } = values;
  const inner = reorderInput(build, weight);
  const outer = values.view(inner, [rows / block, block ** 2, (columns / block) * kh, kw]);
  const squares = (rows / block) * (columns / block) * kh * kw;
  return values.view(channelsLast(build, outer, block ** 2), [squares, block ** 2]);
}

/** The named rows, in that order. */
export function takeRows(build: GraphBuilder, x: string, rows: readonly number[], all: number): string {
  const isSame = rows.length === all && rows.every((row, i) => row === i);
  return isSame ? x : build.op('Gather', [x, build.ints(rows)], { axis: 0 });
}
