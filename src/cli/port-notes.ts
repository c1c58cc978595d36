import { isBase } from '../port/pipeline/family.ts';
import { datatypeOf } from '../repository/datatypes.ts';
import type { TaskManifest } from '../repository/types.ts';

/** Variants that lose more of their base's accuracy were not fine-tuned enough, or pruned too far, to be of use. */
export const MANY_POINTS = 20;

/** What whoever serves a family should know of it, a sentence each. */
export function portNotes({ inputs, variants }: Pick<TaskManifest, 'inputs' | 'variants'>): string[] {
  return [...requestNotes(inputs), ...lossNotes(variants)];
}

/** The input of somebody else's network may have got another name. */
function requestNotes(inputs: TaskManifest['inputs']): string[] {
  return inputs.map(({ name, dtype, shape }) => {
    const sizes = shape.map((size) => (size < 0 ? 'N' : size)).join(', ');
    return `Requests carry "${name}", [${sizes}] as ${datatypeOf(dtype)}: pixels in [0, 1], channel by channel.`;
  });
}

function lossNotes(variants: TaskManifest['variants']): string[] {
  const best = Math.max(...variants.filter(isBase).map(({ accuracy }) => accuracy.test));
  const poor = variants.filter(({ accuracy }) => 100 * (best - accuracy.test) > MANY_POINTS);
  if (poor.length === 0) return [];
  const lost = poor.map(
    ({ version, accuracy }) => `${version} (${(100 * (best - accuracy.test)).toFixed(0)} points)`,
  );
  const epochs = Math.max(...poor.map(({ lineage }) => lineage.epochs ?? 0));
  return [
    `Versions far below their base: ${lost.join(', ')}, after ${epochs} ${epochs === 1 ? 'epoch' : 'epochs'} of fine-tuning. ` +
      `More may help (--epochs ${Math.max(3, 3 * epochs)}), or smaller --ratios; bonsai repo remove takes them out.`,
  ];
}
