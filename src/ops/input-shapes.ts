import { InvalidArgumentError } from '../base/errors.ts';
import type { Graph, Shape } from '../graph/model.ts';
import { describeShape } from './dims.ts';

/**
 * Makes sure that shapes given for inputs are shapes of inputs that a graph has, with as many sizes, all of them possible.
 * @throws InvalidArgumentError naming the input, what was given and what is there
 */
export function checkInputShapes(
  { inputs }: Pick<Graph, 'inputs'>,
  shapes: Readonly<Record<string, Shape>>,
): void {
  for (const [name, sizes] of Object.entries(shapes)) {
    const input = inputs.find((candidate) => candidate.name === name);
    if (input === undefined) {
      const known = inputs.map((candidate) => `"${candidate.name}"`).join(', ');
      throw new InvalidArgumentError(
        `The network has no input "${name}"; its inputs are ${known || 'none'}.`,
      );
    }
    const stated = input.type?.shape;
    if (!Array.isArray(sizes) || (stated !== undefined && stated.length !== sizes.length)) {
      const found = Array.isArray(sizes) ? `[${sizes.join(', ')}]` : `a ${typeof sizes}`;
      throw new InvalidArgumentError(
        `The input "${name}" is ${stated === undefined ? 'of unknown rank' : describeShape(stated)}; the shape given for ` +
          `it is ${found}. Expected ${stated === undefined ? 'a list of' : stated.length} sizes.`,
      );
    }
    const wrong = sizes.find((size) => typeof size === 'number' && !(Number.isInteger(size) && size > 0));
    if (wrong !== undefined) {
      throw new InvalidArgumentError(
        `The shape given for the input "${name}" is [${sizes.join(', ')}]; sizes are positive whole numbers, ${wrong} is none.`,
      );
    }
  }
}
