import { InvalidArgumentError } from '../../base/errors.ts';
import { type Graph, type Model, withGraph } from '../../graph/model.ts';
import { definitionsOf, renameValues } from '../../graph/walk.ts';
import { BACKBONE_METADATA_KEY } from '../backbones/backbone.ts';
import type { Dataset } from '../data/data-module.ts';
import { withImageInput } from '../image-input.ts';
import { withOpenBatch } from '../train/teacher.ts';

/**
 * A network of anybody's as one that can be fine-tuned and served beside others of its task: for any batch where that can
 * be, fed with pixels in [0, 1] as [N, C, H, W], its input normalised where it was trained so.
 * @param normalize whether pixels are normalised before the network
 * @throws BonsaiError `shape_mismatch` where the network takes no images of the data's size
 */
export function openBase(model: Model, dataset: Dataset, normalize: boolean): Model {
  return withImageInput(withOpenBatch(model) ?? model, dataset, { normalize });
}

/**
 * The network with the names of another one's input and output, so that both answer the same requests.
 * @throws InvalidArgumentError where they do not have one input and as many outputs of the same ranks
 */
export function withNamesOf(model: Model, other: Model): Model {
  const [own, wanted] = [interfaceOf(model.graph), interfaceOf(other.graph)];
  if (own.length !== wanted.length) {
    throw new InvalidArgumentError(
      `Bases of one family answer the same requests: the first has ${wanted.length - 1} outputs, another has ${own.length - 1}.`,
    );
  }
  const names = new Map(own.map((name, i) => [name, wanted[i]!]));
  if (own.every((name, i) => name === wanted[i])) return model;
  // Inner values that have one of these names make room.
  const taken = new Set(definitionsOf(model.graph));
  for (const name of taken) {
    if (names.has(name) || !wanted.includes(name)) continue;
    let fresh = `${name}_inner`;
    while (taken.has(fresh) || wanted.includes(fresh)) fresh += '_';
    names.set(name, fresh);
  }
  return withGraph(model, renameValues(model.graph, names));
}

function interfaceOf({ inputs, outputs }: Graph): string[] {
  return [...inputs, ...outputs].map(({ name }) => name);
}

/** The name that the backbone's builder left in the file; undefined for networks of other origin. */
export function backboneOf(base: Model): string | undefined {
  try {
    const made: unknown = JSON.parse(base.metadata.get(BACKBONE_METADATA_KEY) ?? 'null');
    const hasName =
      typeof made === 'object' && made !== null && 'name' in made && typeof made.name === 'string';
    return hasName ? (made.name as string) : undefined; // Its type was just checked.
  } catch {
    return undefined; // Somebody else's entry under our key: lineage then tells no backbone.
  }
}
