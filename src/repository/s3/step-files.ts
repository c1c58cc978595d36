import { stepKey } from './layout.ts';
import type { ObjectStore } from './object-store.ts';
import { type Patience, patiently } from './patience.ts';

/**
 * Finished steps of a porting that several machines share, beside the task that they are for. A name stands for all that its
 * step depends on, so that whoever writes it writes the same.
 */
export function stepFiles(
  store: ObjectStore,
  task: string,
  patience: Patience,
): {
  /** @throws StoreError */
  read(name: string): Promise<Uint8Array | undefined>;
  write(name: string, bytes: Uint8Array): Promise<void>;
} {
  const { signal } = patience;
  return {
    async read(name) {
      const found = await patiently(() => store.read(stepKey(task, name), { signal }), patience);
      return found === 'unchanged' ? undefined : found?.bytes; // It never is, without an ETag to compare with.
    },
    write: (name, bytes) => patiently(() => store.write(stepKey(task, name), bytes, { signal }), patience),
  };
}
