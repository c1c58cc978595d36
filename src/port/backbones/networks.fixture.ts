import { elementCount } from '../../base/tensor.ts';
import type { Model } from '../../graph/model.ts';
import type { BackboneOptions } from './backbone.ts';
import { backbone } from './registry.ts';

/** The backbone for images of 3×32×32 and ten classes, unless the target says otherwise. */
export function builtFor(spec: string, target: Partial<BackboneOptions> = {}): Model {
  const inputShape = target.inputShape ?? [3, 32, 32];
  const perChannel = (value: number) => Array.from({ length: inputShape[0] }, () => value);
  const normalization = { mean: perChannel(0.5), std: perChannel(0.25) };
  return backbone(spec).build({ inputShape, classes: 10, normalization, seed: 1, ...target });
}

/** Weights, scales and biases that training moves, as the literature counts parameters. */
export function countTrainable(spec: string, classes: number): number {
  const { initializers } = builtFor(spec, { classes }).graph;
  return [...initializers]
    .filter(([name]) => !/^normalize\/|norm\/(mean|variance)$/.test(name))
    .reduce((sum, [, tensor]) => sum + elementCount(tensor.shape), 0);
}

export function namesOf(spec: string): string[] {
  return [...builtFor(spec).graph.initializers.keys()];
}

/** The shape of a convolution's weight. */
export function weightShape(spec: string, layer: string): readonly number[] {
  return builtFor(spec).graph.initializers.get(`${layer}/conv/weight`)!.shape;
}
