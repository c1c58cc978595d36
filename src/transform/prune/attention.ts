import type { Model, Shape } from '../../graph/model.ts';
import { lettersOf } from '../../ops/contraction.ts';
import type { InferredTypes } from '../../ops/infer.ts';
import { axisWalk } from './axis-walk.ts';

/** What attention loses: 'heads', whole heads; 'width', the same positions of every head. */
export type AttentionUnit = 'heads' | 'width';

/**
 * Finds the Reshapes that split channels into heads: walking back from each product of two activations (queries with
 * keys, weights with values) along each axis of an operand until a Reshape makes that axis. An axis over which the
 * product only repeats itself (a batch axis) counts the heads; the two others hold positions and the width of a head.
 * A hint, no proof: where it is missing, the Reshape is treated as a channel shuffle's, which is right as well.
 * @returns by name of a Reshape's output, the axis along which its channels are to be pruned
 */
export function attentionAxes(
  model: Model,
  { types, constants }: Pick<InferredTypes, 'types' | 'constants'>,
  unit: AttentionUnit,
): ReadonlyMap<string, number> {
  const shapeOf = (value: string): Shape | undefined => types.get(value)?.shape;
  const isActivation = (value: string) => value !== '' && !constants.has(value);
  const axes = new Map<string, number>();
  const walkBack = axisWalk(model, { types, constants }, (value, axis) => axes.set(value, axis));

  for (const node of model.graph.nodes) {
    if (!node.inputs.slice(0, 2).every(isActivation)) continue;
    const letters = lettersOf(node, node.inputs.map(shapeOf));
    if (letters === undefined) continue;
    const [a, b] = letters.operands;
    const isBatch = (letter: string) =>
      letters.out.includes(letter) && a.includes(letter) && b.includes(letter);
    const visited = new Set<string>();
    for (const [operand, own] of [a, b].entries()) {
      for (const [axis, letter] of own.entries()) {
        if (isBatch(letter) === (unit === 'heads')) walkBack(node.inputs[operand]!, axis, visited);
      }
    }
  }
  return axes;
}
