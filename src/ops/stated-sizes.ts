import { int64Tensor, numbersOf } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { CouplingContext, PrunedContext } from './op.ts';

/**
 * Makes numbers in a vector of sizes that a node asks for follow what is left of the channels, where they are written
 * down: in a constant vector, or in the constant parts of a Concat that joins the vector for this node alone.
 * @param at positions in the vector that change
 * @param sizes what they become, position by position
 * @param asking the node that asks for the vector, where it is one before the node of the context
 * @returns false where one of them is computed otherwise, or where others could read them
 */
export function rewriteSizes(
  context: CouplingContext,
  input: number,
  at: readonly number[],
  sizes: (pruned: PrunedContext) => ReadonlyMap<number, number>,
  asking = context.node,
): boolean {
  const constant = context.constantNamed(asking.inputs[input] ?? '');
  if (constant !== undefined) {
    context.rewrite(
      (pruned) => ({
        constants: new Map([[input, int64Tensor(changed(numbersOf(constant), 0, sizes(pruned)))]]),
      }),
      asking,
    );
    return true;
  }
  const join = context.producerOf(asking.inputs[input] ?? '');
  if (join?.opType !== 'Concat' || join.domain !== '' || intAttribute(join, 'axis', 0) !== 0) return false;
  const others = context.readers(join.outputs[0]!);
  if (others.isExposed || others.nodes.some((node) => node !== asking)) return false;
  const parts: { readonly input: number; readonly offset: number; readonly values: readonly number[] }[] = [];
  let offset = 0;
  for (const [index, name] of join.inputs.entries()) {
    const tensor = context.constantNamed(name);
    const length = tensor?.shape[0] ?? context.lengthOf(name);
    if (length === undefined) return false;
    if (tensor !== undefined) parts.push({ input: index, offset, values: numbersOf(tensor) });
    offset += length;
  }
  const touched = parts.filter((part) => at.some((place) => isIn(part, place)));
  if (!at.every((place) => touched.some((part) => isIn(part, place)))) return false;
  context.rewrite((pruned) => {
    const now = sizes(pruned);
    return {
      constants: new Map(
        touched.map((part) => [part.input, int64Tensor(changed(part.values, part.offset, now))]),
      ),
    };
  }, join);
  return true;
}

function isIn(part: { readonly offset: number; readonly values: readonly number[] }, place: number): boolean {
  return place >= part.offset && place < part.offset + part.values.length;
}

function changed(values: readonly number[], offset: number, now: ReadonlyMap<number, number>): number[] {
  return values.map((value, i) => now.get(i + offset) ?? value);
}
