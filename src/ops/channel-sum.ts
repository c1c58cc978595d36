import type { GraphBuilder } from '../graph/build.ts';
import { defineCompound } from './compound.ts';
import { reduceSum } from './emit.ts';

/** x [N, C, spatial…] → Σ x over all axes but the channels', [C]. */
export const ChannelSum = defineCompound({
  schema: { name: 'ChannelSum', inputs: 1, outputs: 1 },
  shape: ({ inputs: [x] }) => [{ dtype: 'float32', shape: [x?.shape?.[1] ?? null] }],
  expand: ({ build, x, xShape }) => [channelSum(build, x(0), xShape(0))],
});

/** Σ x over all axes but the channels'. */
export function channelSum(build: GraphBuilder, x: string, shape: readonly number[]): string {
  return reduceSum(
    build,
    x,
    shape.flatMap((_, axis) => (axis === 1 ? [] : [axis])),
  );
}
