import { seededRandom } from '../../base/random.ts';
import { makeVariant } from '../../policy/variants.fixture.ts';
import { digestOf } from '../digest.ts';
import { writeTask } from '../store.ts';
import { MANIFEST_SCHEMA_VERSION, type TaskManifest } from '../types.ts';

/** Writes a task whose networks are random bytes: what they are made of is nothing to those who carry them. */
export async function writeRandomTask(
  root: string,
  task: string,
  sizes: readonly number[],
  seed = 1,
): Promise<{ manifest: TaskManifest; networks: ReadonlyMap<number, Uint8Array> }> {
  const random = seededRandom(seed).fork(task);
  const networks = new Map(
    sizes.map((size, i) => [i + 1, Uint8Array.from({ length: size }, () => random.integer(256))]),
  );
  const tensor = { name: 'x', dtype: 'float32', shape: [-1, 1] } as const;
  const manifest = {
    schemaVersion: MANIFEST_SCHEMA_VERSION,
    task,
    inputs: [tensor],
    outputs: [{ ...tensor, name: 'y' }],
    classes: ['no', 'yes'],
    variants: [...networks].map(([version, bytes]) => ({
      ...makeVariant({ version, accuracy: 1 - version / 10, throughputRps: 10 * version }),
      digest: digestOf(bytes),
      sizeBytes: bytes.byteLength,
    })),
  };
  await writeTask(root, manifest, networks);
  return { manifest, networks };
}
