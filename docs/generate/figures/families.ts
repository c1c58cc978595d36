import { fileURLToPath } from 'node:url';
import { readManifest } from '../../../src/repository/store.ts';
import type { Variant } from '../../../src/repository/types.ts';

/** A family of the zoo. */
export interface Family {
  readonly task: string;
  readonly variants: readonly Variant[];
}

const ZOO = fileURLToPath(new URL('../../../zoo/models', import.meta.url));

export async function zooFamily(task: string): Promise<Family> {
  return { task, variants: (await readManifest(ZOO, task)).variants };
}
