import { BonsaiError } from '../base/errors.ts';
import { float32Tensor, floatsOf } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { NCHWC_DOMAIN } from '../graph/domains.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { Session } from './session.ts';

/**
 * The number of channels that ONNX Runtime keeps together on this machine (NCHWc layout): 8 on x86-64 with AVX2,
 * 16 with AVX-512, 1 where the build has no such layout. Convolutions whose channel counts are multiples of it run
 * on the fast path, so it is what the pruner should align to.
 *
 * Asks the engine itself: its internal operator ReorderInput reads a ramp in which every element holds the number of
 * its channel. With block 8 the memory begins 0 … 7 (position 0), 0 … 7 (position 1), so the first return to 0
 * tells the block.
 * @throws BonsaiError `engine_failure` if the engine has the operator but does something else with the ramp
 */
export async function probeBlockSize(): Promise<number> {
  const build = new GraphBuilder('probe');
  const ramp = build.input('ramp', 'float32', [1, RAMP_CHANNELS, 1, RAMP_POSITIONS]);
  const blocked = build.op('ReorderInput', [ramp], {}, { domain: NCHWC_DOMAIN });
  build.output(blocked, 'float32');
  const model = modelOf(build.finish(), { extraOpsets: [{ domain: NCHWC_DOMAIN, version: 1 }] });

  let session: Session;
  try {
    session = await Session.create(writeModel(model));
  } catch (error) {
    if (error instanceof BonsaiError && error.code === 'load_failed') return 1; // A build without NCHWc.
    throw error;
  }
  try {
    const data = Float32Array.from({ length: RAMP_CHANNELS * RAMP_POSITIONS }, (_, i) =>
      Math.floor(i / RAMP_POSITIONS),
    );
    const results = await session.run({ ramp: float32Tensor([1, RAMP_CHANNELS, 1, RAMP_POSITIONS], data) });
    const block = floatsOf(results[blocked]!).indexOf(0, 1);
    const isBlock = block > 1 && RAMP_CHANNELS % block === 0;
    if (!isBlock)
      throw new BonsaiError(
        'engine_failure',
        `ReorderInput returned the ramp in an unknown order (second 0 at ${block}).`,
      );
    return block;
  } finally {
    await session.release();
  }
}

/** A multiple of every block size in use (8, 16) with room for 32 and 64. */
export const RAMP_CHANNELS = 128;
/** Two positions are the fewest at which the order of memory shows. */
export const RAMP_POSITIONS = 2;
