import { float } from '../graph/attributes.ts';
import type { GraphBuilder } from '../graph/build.ts';
import { defineCompound } from './compound.ts';

/** (dy, y) → dy where y > 0, else 0: the gradient of Relu, from its output. */
export const ReluGradient = defineCompound({
  schema: { name: 'ReluGradient', inputs: 2, outputs: 1 },
  shape: ({ inputs: [, y] }) => [y ?? { dtype: 'float32' }],
  expand: ({ build, x }) => [build.op('Mul', [x(0), step(build, x(1))])],
});

/**
 * The mask [y > 0] is HardSigmoid with a slope so steep that every positive float32 but the smallest saturates:
 * bit-identical to Where and faster in ONNX Runtime (no boolean tensor).
 */
export const STEP_SLOPE = 1e35;

/** 1 where the value is positive, else 0. */
export function step(build: GraphBuilder, value: string): string {
  return build.op('HardSigmoid', [value], { alpha: float(STEP_SLOPE), beta: float(0) });
}
