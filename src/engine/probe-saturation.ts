import { elementsOf, tensorOf } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { Session } from './session.ts';

/**
 * Whether ONNX Runtime's integer kernels give wrong sums on this machine where unsigned activations meet large signed
 * weights. x86 CPUs without VNNI multiply and add in pairs in 16 bits (VPMADDUBSW): 255 · 127 + 255 · 127 = 64770 becomes
 * 32767. Such machines need weights in 7 bits.
 *
 * Asks the engine itself: a product of the largest values is right or it is not.
 * Source: ONNX Runtime's documentation, "Quantize ONNX models", on `reduce_range`.
 */
export async function probeSaturation(): Promise<boolean> {
  const build = new GraphBuilder('probe');
  const [rows, inner, columns] = PROBE_SIZES;
  const a = build.input('a', 'uint8', [rows, inner]);
  const b = build.constant(tensorOf('int8', [inner, columns], new Int8Array(inner * columns).fill(127)));
  const sums = build.op('MatMulInteger', [a, b]);
  build.output(sums, 'int32', [rows, columns]);
  const session = await Session.create(writeModel(modelOf(build.finish())));
  try {
    const largest = tensorOf('uint8', [rows, inner], new Uint8Array(rows * inner).fill(255));
    const results = await session.run({ a: largest }, [sums]);
    return Array.from(elementsOf(results[sums]!), Number).some((sum) => sum !== inner * 255 * 127);
  } finally {
    await session.release();
  }
}

/** Rows, inner size and columns of the product: enough for the kernel of whole vectors, not only its remainders. */
export const PROBE_SIZES = [4, 64, 32] as const;
