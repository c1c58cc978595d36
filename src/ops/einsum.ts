import { elementCount } from '../base/tensor.ts';
import { stringAttribute } from '../graph/attributes.ts';
import type { Dim } from '../graph/model.ts';
import { coupleContraction, equationLetters } from './contraction.ts';
import { ShapeError } from './errors.ts';
import { defineOp, type GradientContext, type ShapeContext } from './op.ts';

/**
 * A sum of products over the axes that an equation names: 'bhid,bhjd->bhij' are the scores of attention. Coupled where
 * it is a product of two operands (no diagonals, no sum over an axis of one operand alone).
 */
export const Einsum = defineOp({
  schema: { name: 'Einsum', since: [12], inputs: [1, Number.POSITIVE_INFINITY], outputs: [1, 1] },
  shape: einsumShape,
  gradient: einsumGradient,
  coupling: coupleContraction,
  cost({ node, inputs, outputs: [y] }) {
    const letters = equationLetters(
      equationOf(node),
      inputs.map((shape) => shape?.length ?? 0),
    );
    if (letters === undefined || inputs.length < 2) return { macs: 0 };
    const sizes = new Map<string, number>();
    for (const [i, own] of letters.operands.entries()) {
      for (const [axis, letter] of own.entries()) {
        sizes.set(letter, Math.max(sizes.get(letter) ?? 1, inputs[i]?.[axis] ?? 1));
      }
    }
    const summed = [...sizes].filter(([letter]) => !letters.out.includes(letter)).map(([, size]) => size);
    return { macs: elementCount(y!) * elementCount(summed) };
  },
});

function equationOf(node: ShapeContext['node']): string {
  return stringAttribute(node, 'equation', '');
}

function einsumShape({ node, inputs }: ShapeContext) {
  const dtype = inputs[0]?.dtype ?? 'float32';
  const shapes = inputs.map((type) => type?.shape);
  if (!shapes.every((shape) => shape !== undefined)) return [{ dtype }];
  const letters = equationLetters(
    equationOf(node),
    shapes.map((shape) => shape.length),
  );
  if (letters === undefined) {
    throw new ShapeError(node, 0, `does not fit the equation "${equationOf(node)}" together with the others`);
  }
  const sizes = new Map<string, Dim>();
  for (const [input, own] of letters.operands.entries()) {
    for (const [axis, letter] of own.entries()) {
      const size = shapes[input]![axis]!;
      const known = sizes.get(letter);
      if (
        known === undefined ||
        known === 1 ||
        (typeof known !== 'number' && typeof size === 'number' && size > 1)
      ) {
        sizes.set(letter, size);
      } else if (typeof size === 'number' && size !== 1 && size !== known && typeof known === 'number') {
        throw new ShapeError(node, input, `has size ${size} for "${letter}", another has ${known}`);
      }
    }
  }
  return [{ dtype, shape: letters.out.map((letter) => sizes.get(letter)!) }];
}

/** The gradient of one operand is the product of the other with dy, summed over what the operand does not have. */
function einsumGradient(context: GradientContext): (string | undefined)[] {
  const {
    build,
    node,
    dy: [dy],
  } = context;
  if (dy === undefined) return [];
  const shapes = node.inputs.map((_, input) => context.xShape(input));
  const letters = equationLetters(
    equationOf(node),
    shapes.map((shape) => shape.length),
  );
  if (letters === undefined || node.inputs.length !== 2) return [];
  const all = [...new Set([...letters.operands.flat(), ...letters.out])];
  // What the dots stand for gets letters of its own.
  const free = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZ'].filter((letter) => !all.includes(letter));
  const plain = new Map(all.map((letter) => [letter, letter.length === 1 ? letter : free.shift()!]));
  const term = (own: readonly string[]) => own.map((letter) => plain.get(letter)!).join('');
  const gradientOf = (input: number): string | undefined => {
    const [own, other] = [letters.operands[input]!, letters.operands[1 - input]!];
    const isPlain = own.every((letter) => other.includes(letter) || letters.out.includes(letter));
    const isBroadcast = own.some((letter, axis) => shapes[input]![axis] === 1 && letter.length > 1);
    if (!isPlain || isBroadcast) return undefined;
    const equation = `${term(letters.out)},${term(other)}->${term(own)}`;
    return build.op('Einsum', [dy, context.x(1 - input)], { equation });
  };
  return [0, 1].map((input) => (context.needs(input) ? gradientOf(input) : undefined));
}
