import { float32Tensor } from '../src/base/tensor.ts';
import { GraphBuilder, modelOf } from '../src/graph/build.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import { makeVariant } from '../src/policy/variants.fixture.ts';
import { digestOf } from '../src/repository/digest.ts';
import { writeTask } from '../src/repository/store.ts';
import { MANIFEST_SCHEMA_VERSION } from '../src/repository/types.ts';

/** Writes a task of tiny networks whose answer is their version. @param family accuracy and throughput of versions 1, 2, … */
export async function writeConstantFamily(
  root: string,
  task: string,
  family: readonly (readonly [accuracy: number, throughputRps: number])[],
): Promise<void> {
  const models = new Map(family.map((_, i) => [i + 1, network(i + 1)]));
  const variants = family.map(([accuracy, throughputRps], i) => ({
    ...makeVariant({ version: i + 1, accuracy, throughputRps }),
    digest: digestOf(models.get(i + 1)!),
    sizeBytes: models.get(i + 1)!.byteLength,
  }));
  const tensor = { dtype: 'float32', shape: [-1, 1] } as const;
  const inputs = [{ name: 'image', ...tensor }];
  const outputs = [{ name: 'logits', ...tensor }];
  await writeTask(root, { schemaVersion: MANIFEST_SCHEMA_VERSION, task, inputs, outputs, variants }, models);
}

/** logits = version, for any image. */
function network(version: number): Uint8Array {
  const b = new GraphBuilder('constant');
  const image = b.input('image', 'float32', ['N', 1]);
  const zero = b.op('Mul', [image, b.constant(float32Tensor([1], [0]))]);
  b.output(b.op('Add', [zero, b.scalar(version)], {}, { outputs: ['logits'] }), 'float32', ['N', 1]);
  return writeModel(modelOf(b.finish()));
}
