import { intAttribute, stringAttribute } from '../graph/attributes.ts';
import type { Node, Shape } from '../graph/model.ts';
import { uniteLabels } from './broadcast.ts';
import { alongAxis, freezeInputs } from './channels.ts';
import { labelledAxes } from './label-tensor.ts';
import type { CouplingContext } from './op.ts';

/**
 * The axes of a product of two tensors, by name: a name in both operands and not in the result is contracted, one in
 * both and in the result is a batch axis, one in a single operand and in the result is free. MatMul of [N, H, T, D] and
 * [N, H, D, S] has a = [1, 0, m, k], b = [1, 0, k, n], out = [1, 0, m, n].
 */
export interface ContractionLetters {
  readonly operands: readonly [a: readonly string[], b: readonly string[]];
  readonly out: readonly string[];
}

/** The axes of a MatMul, a Gemm or an Einsum of two operands; undefined for anything else, or where a rank is unknown. */
export function lettersOf(
  node: Node,
  shapes: readonly (Shape | undefined)[],
): ContractionLetters | undefined {
  const [a, b] = [shapes[0]?.length, shapes[1]?.length];
  if (a === undefined || b === undefined) return undefined;
  switch (node.opType) {
    case 'MatMul': {
      if (a === 0 || b === 0) return undefined;
      // Batch axes are named by their distance from the last one, as they are aligned on the right.
      const batch = (count: number) =>
        Array.from({ length: Math.max(0, count) }, (_, i) => `${count - 1 - i}`);
      return {
        operands: [
          a === 1 ? ['k'] : [...batch(a - 2), 'm', 'k'],
          b === 1 ? ['k'] : [...batch(b - 2), 'k', 'n'],
        ],
        out: [...batch(Math.max(a, b) - 2), ...(a === 1 ? [] : ['m']), ...(b === 1 ? [] : ['n'])],
      };
    }
    case 'Gemm':
      if (a !== 2 || b !== 2) return undefined;
      return {
        operands: [
          intAttribute(node, 'transA', 0) ? ['k', 'm'] : ['m', 'k'],
          intAttribute(node, 'transB', 0) ? ['n', 'k'] : ['k', 'n'],
        ],
        out: ['m', 'n'],
      };
    case 'Einsum': {
      const letters = equationLetters(stringAttribute(node, 'equation', ''), [a, b]);
      if (letters === undefined || node.inputs.length !== 2) return undefined;
      const [first, second] = letters.operands as [string[], string[]]; // As many as ranks were given.
      // A diagonal or a sum over an axis of one operand is no product.
      const isPlain = [first, second, letters.out].every((each) => new Set(each).size === each.length);
      const isSummed = (letter: string, other: readonly string[]) =>
        !other.includes(letter) && !letters.out.includes(letter);
      if (!isPlain || first.some((each) => isSummed(each, second))) return undefined;
      if (second.some((each) => isSummed(each, first))) return undefined;
      return { operands: [first, second], out: letters.out };
    }
    default:
      return undefined;
  }
}

/**
 * An Einsum's equation, spread over axes: 'bhid,bhjd->bhij' as it is, '...ij,jk' over ranks 3 and 2 as
 * ['.0', 'i', 'j'], ['j', 'k'] → ['.0', 'i', 'k'].
 * @returns undefined where the equation does not fit the ranks
 */
export function equationLetters(
  equation: string,
  ranks: readonly number[],
): { readonly operands: readonly (readonly string[])[]; readonly out: readonly string[] } | undefined {
  const [left = '', right] = equation.replaceAll(' ', '').split('->');
  const terms = left.split(',');
  if (terms.length !== ranks.length) return undefined;
  let widest = 0;
  const spread = (term: string, rank: number | undefined): string[] | undefined => {
    const at = term.indexOf('...');
    const own = [...term.replace('...', '')];
    if (!own.every((letter) => /[A-Za-z]/.test(letter))) return undefined;
    const count = at < 0 ? 0 : rank === undefined ? widest : rank - own.length;
    if (count < 0 || (rank !== undefined && own.length + count !== rank)) return undefined;
    widest = Math.max(widest, count);
    const dots = Array.from({ length: count }, (_, i) => `.${count - 1 - i}`);
    return at < 0 ? own : [...own.slice(0, at), ...dots, ...own.slice(at)];
  };
  const operands = terms.map((term, i) => spread(term, ranks[i]));
  if (!operands.every((operand) => operand !== undefined)) return undefined;
  const all = operands.flat();
  if (right !== undefined) {
    const out = spread(right, undefined);
    return out?.every((letter) => all.includes(letter)) ? { operands, out } : undefined;
  }
  // Without an arrow: what the dots stand for, then the letters that occur once, in alphabetical order.
  const dots = Array.from({ length: widest }, (_, i) => `.${widest - 1 - i}`);
  const once = all.filter((letter) => letter.length === 1 && all.indexOf(letter) === all.lastIndexOf(letter));
  return { operands, out: [...dots, ...once.sort()] };
}

/**
 * Coupling of a product. Channels along a contracted axis end here: those of the other operand are the same (the widths
 * of queries and keys), or slices of a stored weight. Along a batch axis both operands lose the same (heads); along a
 * free axis channels pass. The free axis of a stored weight makes channels of its own; where the result has some along
 * another axis, those cross them.
 */
export function coupleContraction(context: CouplingContext): void {
  const { node } = context;
  const shapes = [context.xShape(0), context.xShape(1)];
  const letters = lettersOf(node, shapes);
  if (letters === undefined) {
    freezeInputs(context, `this ${node.opType} is not a product of two operands whose axes are known`);
    return;
  }
  const sides = letters.operands.map((own, input) => sideOf(context, input, own));
  const passing = new Map<string, Int32Array>(); // What reaches the result, by axis.
  const carry = (letter: string, labels: Int32Array) => {
    const other = passing.get(letter);
    passing.set(letter, other === undefined ? labels : united(context, other, labels));
  };
  for (const [input, side] of sides.entries()) {
    const { labels } = side;
    if (labels === undefined) continue;
    const other = sides[1 - input]!;
    const { letter } = side;
    const isOut = letters.out.includes(letter);
    const otherAxis = other.letters.indexOf(letter);
    if (otherAxis < 0 || (isOut && shapes[1 - input]![otherAxis] === 1)) carry(letter, labels);
    else if (other.isParameter && shapes[1 - input]![otherAxis] === labels.length) {
      context.bind(1 - input, otherAxis, labels);
      if (isOut) carry(letter, labels);
    } else if (other.letter === letter && other.labels?.length === labels.length) {
      if (isOut) carry(letter, labels);
      else if (input === 0) united(context, labels, other.labels);
    } else {
      context.freeze(labels, `meets an operand of ${node.opType} with the same axis that cannot be cut`);
    }
  }

  const free = sides.findIndex(
    (side) => side.isParameter && side.letters.some((letter) => isFree(letters, letter)),
  );
  if (free >= 0 && !sides[1 - free]!.isParameter) {
    const own = sides[free]!.letters;
    const axis = own.findLastIndex((letter) => isFree(letters, letter));
    const size = shapes[free]![axis];
    if (typeof size === 'number' && passing.size > 0) context.makesCrossing();
    else if (typeof size === 'number') {
      const units = context.fresh(size);
      context.bind(free, axis, units);
      passing.set(own[axis]!, units);
    }
  }
  // A position has one label: of several axes with channels one is kept, that of the batch (heads) if there is one.
  const isBatch = (letter: string) => letters.operands.every((own) => own.includes(letter));
  const [first] = [...passing.keys()].sort((a, b) => Number(isBatch(b)) - Number(isBatch(a)));
  for (const [letter, labels] of passing) {
    if (letter === first) continue;
    context.freeze(labels, 'its result carries channels along another axis');
    passing.delete(letter);
  }
  for (const [letter, labels] of passing) {
    const axis = letters.out.indexOf(letter);
    addBias(context, axis, letters.out.length, labels);
    context.produce(0, alongAxis(labels, axis, letters.out.length));
  }
  if (passing.size === 0) freezeBias(context);
}

interface Side {
  readonly letters: readonly string[];
  readonly isParameter: boolean;
  /** Labels along one axis, and the axis; undefined where there are none (or they had to be frozen). */
  readonly labels: Int32Array | undefined;
  readonly letter: string;
}

function sideOf(context: CouplingContext, input: number, letters: readonly string[]): Side {
  const labels = context.labels(input);
  const isParameter = labels === undefined && context.isParameter(input);
  if (labels === undefined) return { letters, isParameter, labels: undefined, letter: '' };
  const axes = labelledAxes(labels);
  if (axes.length !== 1) {
    context.freeze(
      labels.data,
      axes.length === 0
        ? `is a single channel in a ${context.node.opType}`
        : `${context.node.opType} mixes channels that do not lie along one axis`,
    );
    return { letters, isParameter, labels: undefined, letter: '' };
  }
  return { letters, isParameter, labels: labels.data, letter: letters[axes[0]!]! };
}

function isFree({ operands: [a, b], out }: ContractionLetters, letter: string): boolean {
  return out.includes(letter) && a.includes(letter) !== b.includes(letter);
}

function united(context: CouplingContext, a: Int32Array, b: Int32Array): Int32Array {
  return uniteLabels(context, { shape: [a.length], data: a }, { shape: [b.length], data: b }).data;
}

/** What is added to the product (a Gemm's third input) loses the same channels where it has their axis. */
function addBias(context: CouplingContext, axis: number, rank: number, labels: Int32Array): void {
  if ((context.node.inputs[BIAS] ?? '') === '') return;
  const shape = context.xShape(BIAS);
  const own = shape === undefined ? undefined : axis - (rank - shape.length);
  if (shape === undefined || own === undefined) {
    context.freeze(labels, 'the bias has an unknown shape');
    freezeBias(context);
    return;
  }
  const added = context.labels(BIAS);
  const addedAxes = added === undefined ? [] : labelledAxes(added);
  if (added !== undefined && (addedAxes.length !== 1 || addedAxes[0] !== own)) {
    context.freeze(added.data, 'is added along another axis than the channels');
  }
  // A bias of size 1 along the axis broadcasts over the channels and stays.
  if (own < 0 || shape[own] === 1) return;
  if (added !== undefined && addedAxes.length === 1 && addedAxes[0] === own)
    united(context, labels, added.data);
  else if (context.isParameter(BIAS)) context.bind(BIAS, own, labels);
  else context.freeze(labels, 'the bias is computed and cannot be cut');
}

function freezeBias(context: CouplingContext): void {
  const added = context.labels(BIAS);
  if (added !== undefined) context.freeze(added.data, 'is added to what has no such channels');
}

/** The input of Gemm that is added to the product. */
const BIAS = 2;
