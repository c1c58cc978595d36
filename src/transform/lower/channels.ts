import type { GraphBuilder } from '../../graph/build.ts';
import { pad } from '../../ops/emit.ts';

/**
 * How the channels of a value lie in the blocked layout. Each segment (a branch of a Concat) is padded with zeros to a
 * multiple of the block, so that joining and cutting branches moves whole blocks. With block 8 and segments 12 and 5:
 *
 *     logical  0 … 11 | 12 … 16          17 channels
 *     padded   0 … 11 0 0 0 0 | 12 … 16 0 0 0    24 slots
 */
export interface Channels {
  readonly segments: readonly number[];
  readonly block: number;
  /** Logical channels. */
  readonly count: number;
  /** Slots, padding included: a multiple of the block. */
  readonly padded: number;
}

export function channelsOf(segments: readonly number[], block: number): Channels {
  const sum = (sizes: readonly number[]) => sizes.reduce((a, b) => a + b, 0);
  return {
    segments,
    block,
    count: sum(segments),
    padded: sum(segments.map((size) => roundUp(size, block))),
  };
}

export function sameChannels(a: Channels, b: Channels): boolean {
  return a.segments.join() === b.segments.join();
}

/** Whether the padding, if any, is all at the end. */
export function isPaddedAtEnd(channels: Channels): boolean {
  return channels.segments.slice(0, -1).every((size) => size % channels.block === 0);
}

/** Pads axes of a plain tensor from logical channels to slots; the new slots hold 0. */
export function padAxes(
  build: GraphBuilder,
  value: string,
  rank: number,
  axes: ReadonlyMap<number, Channels>,
): string {
  const end = new Array<number>(rank).fill(0);
  for (const [axis, channels] of axes) {
    const missing = channels.padded - channels.count;
    // Padding in between is gathered from one zero at the end.
    if (missing > 0) end[axis] = isPaddedAtEnd(channels) ? missing : 1;
  }
  let result = pad(build, value, new Array<number>(rank).fill(0), end);
  for (const [axis, channels] of axes) {
    if (isPaddedAtEnd(channels)) continue;
    result = build.op('Gather', [result, build.ints(slotsOf(channels))], { axis });
  }
  return result;
}

/** Takes the logical channels out of the slots along axes of a plain tensor. */
export function unpadAxes(build: GraphBuilder, value: string, axes: ReadonlyMap<number, Channels>): string {
  const ends = [...axes].filter(
    ([, channels]) => isPaddedAtEnd(channels) && channels.padded > channels.count,
  );
  let result = value;
  if (ends.length > 0) {
    result = build.op('Slice', [
      result,
      build.ints(ends.map(() => 0)),
      build.ints(ends.map(([, { count }]) => count)),
      build.ints(ends.map(([axis]) => axis)),
    ]);
  }
  for (const [axis, channels] of axes) {
    if (isPaddedAtEnd(channels)) continue;
    result = build.op('Gather', [result, build.ints(filledSlots(channels))], { axis });
  }
  return result;
}

/** For each slot its logical channel; padding points at `count`, one past the last. */
function slotsOf(channels: Channels): number[] {
  let first = 0;
  return channels.segments.flatMap((size) => {
    const slots = Array.from({ length: roundUp(size, channels.block) }, (_, i) =>
      i < size ? first + i : channels.count,
    );
    first += size;
    return slots;
  });
}

/** For each logical channel its slot. */
function filledSlots(channels: Channels): number[] {
  let first = 0;
  return channels.segments.flatMap((size) => {
    const slots = Array.from({ length: size }, (_, i) => first + i);
    first += roundUp(size, channels.block);
    return slots;
  });
}

function roundUp(size: number, block: number): number {
  return Math.ceil(size / block) * block;
}
