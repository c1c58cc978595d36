import { elementCount, int64Tensor, numbersOf } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { Dim, Node, Shape } from '../graph/model.ts';
import { uniteLabels } from './broadcast.ts';
import { describeShape, isCompoundDim, mergedDim, productOf, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { alongAxis, contractLabels, expandLabels, labelledAxes, sliceLabels } from './label-tensor.ts';
import { type CouplingContext, defineOp, type Labels } from './op.ts';
import { elementsAt } from './partial.ts';
import { rewriteSizes } from './stated-sizes.ts';

export const Reshape = defineOp({
  schema: { name: 'Reshape', since: [1, 5, 13, 14, 19, 21], inputs: [1, 2], outputs: [1, 1] },
  shape: (context) => {
    const { node, inputs } = context;
    const { dtype, shape } = requiredType(node, inputs, 0);
    const target = elementsAt(context, 1)?.elements;
    if (target !== undefined) return [{ dtype, shape: reshaped(node, shape, target) }];
    // The rank is known even where the sizes are computed at run time: it is the length of the target vector.
    const rank = inputs[1]?.shape?.[0];
    return [{ dtype, shape: typeof rank === 'number' ? Array<Dim>(rank).fill(null) : undefined }];
  },
  gradient: ({ build, dy, needs, xShape }) => [
    needs(0) ? build.op('Reshape', [dy[0], build.ints(xShape(0))]) : undefined,
  ],
  coupling: (context) => {
    const out = coupleReshape(context);
    if (out !== undefined) retarget(context, out);
  },
  fold: (context) => {
    const data = context.constant(0);
    const partial = data === undefined ? elementsAt(context, 0) : undefined;
    const target = elementsAt(context, 1)?.elements;
    const source = data?.shape ?? partial?.shape;
    if (target === undefined || source === undefined) return undefined;
    const shape = reshaped(context.node, source, target);
    if (!shape.every((size) => typeof size === 'number')) return undefined;
    return data !== undefined ? { ...data, shape } : { ...partial!, shape };
  },
});

/**
 * The output's shape for a target in ONNX's notation: 0 copies the input's size (unless `allowzero`), -1 is what
 * remains. [N, 64, 7, 7] to [0, -1] gives [N, 3136]; to ['N', 64, 49] gives [N, 64, 49].
 */
function reshaped(node: Node, input: Shape | undefined, target: readonly Dim[]): Shape {
  const copiesZero = intAttribute(node, 'allowzero', 0) === 0;
  const sizes: Dim[] = target.map((size, axis) => {
    if (size !== 0 || !copiesZero) return size;
    if (input !== undefined && axis >= input.length) {
      throw new ShapeError(node, 1, `copies axis ${axis} of an input of rank ${input.length}`);
    }
    return input?.[axis] ?? null;
  });
  const open = sizes.indexOf(-1);
  // Copied sizes are the same on both sides, whatever they are.
  const isCopied = (axis: number) => copiesZero && target[axis] === 0;
  const from = input && productOf(input.filter((_, axis) => !isCopied(axis)));
  const to = productOf(sizes.filter((_, axis) => axis !== open && !isCopied(axis)));
  if (from === undefined || to === undefined) {
    return open < 0 ? sizes : sizes.with(open, null);
  }
  const names = [...from.names];
  const foreign = to.names.filter((name) => {
    const at = names.indexOf(name);
    if (at >= 0) names.splice(at, 1);
    return at < 0;
  });
  const isKnown = names.length === 0 && foreign.length === 0;
  const mismatch = () =>
    new ShapeError(
      node,
      0,
      `of shape ${describeShape(input!)} cannot be reshaped to ${describeShape(target)}`,
    );
  if (open < 0) {
    if (isKnown && from.count !== to.count) throw mismatch();
    return sizes;
  }
  if (to.count === 0) return sizes.with(open, null);
  const rest = from.count / to.count;
  if (isKnown) {
    if (!Number.isInteger(rest)) throw mismatch();
    return sizes.with(open, rest);
  }
  return sizes.with(
    open,
    foreign.length === 0 && Number.isInteger(rest) ? mergedDim([rest, ...names]) : null,
  );
}

/**
 * Coupling of an operator that keeps the elements in order and changes the axes: labels are filled along the axes that
 * are merged or split, reshaped, and reduced again. Where an axis of channels is split ([N, C] to [N, g, C/g]) the
 * result must stay rectangular, so the labels are united along all the new axes but one: along the rows of a channel
 * shuffle, where every row loses the same positions; within the heads of attention, which go as a whole.
 * @returns the output's labels, undefined where there are none
 */
export function coupleReshape(context: CouplingContext): Labels | undefined {
  const labels = context.labels(0);
  if (labels === undefined) return undefined;
  const from = context.xShape(0);
  const to = context.yShape(0);
  const blocks = from && to && reshapeBlocks(from, to, copiedAxes(context));
  const reshapedLabels = blocks && reshapeLabels(labels, from, to, blocks);
  if (reshapedLabels === undefined) {
    context.freeze(labels.data, 'is reshaped in a way that mixes channels with sizes unknown here');
    return undefined;
  }
  if (isFolded(reshapedLabels, to) && !isUnfoldedAgain(context, reshapedLabels)) {
    context.freeze(labels.data, 'is reshaped in a way that mixes channels with sizes unknown here');
    return undefined;
  }
  const out = rectangular(context, reshapedLabels);
  context.produce(0, out);
  return out;
}

/**
 * Whether labels lie on an axis on which each stands for a run of positions whose number is not known: those of [N, 16, h, w]
 * reshaped to [N, 4, 4·h·w] have 4 along the last axis, each for h·w positions.
 */
export function isFolded(labels: Labels, shape: Shape | undefined): boolean {
  return labelledAxes(labels).some((axis) => isCompoundDim(shape?.[axis] ?? null));
}

/**
 * Only a GroupNormalization in its old form, an InstanceNormalization between two Reshapes, hands on folded labels. Other
 * operators would take them for what they are elsewhere, one for each position.
 */
function isUnfoldedAgain(context: CouplingContext, labels: Labels): boolean {
  const { nodes, isExposed } = context.readers(context.node.outputs[0]!);
  const target = context.node.opType === 'Reshape' ? targetOf(context) : undefined;
  return (
    !isExposed &&
    nodes.every(({ opType, domain }) => opType === 'InstanceNormalization' && domain === '') &&
    labelledAxes(labels).every(
      (axis) => target?.[axis] === -1 || typeof context.yShape(0)![axis] === 'number',
    )
  );
}

/** Axes of the input that become axes of the output, all together: the same elements in the same order. */
export interface ReshapeBlock {
  readonly from: readonly number[];
  readonly to: readonly number[];
}

/**
 * The smallest runs of axes that a reshape turns into one another. [N, 64, 7, 7] to [N, 8, 8, 49]: N is N, 64 becomes
 * (8, 8), and (7, 7) becomes 49. Sizes without a number are matched by name, from both ends; what lies between the
 * known ends is one run.
 * @param copied axes that the output is told to take from the input, with the same index
 * @returns undefined where the known sizes contradict each other
 */
export function reshapeBlocks(
  from: Shape,
  to: Shape,
  copied: ReadonlySet<number> = new Set(),
): readonly ReshapeBlock[] | undefined {
  let [low, lowTo, high, highTo] = [0, 0, from.length, to.length];
  const isEqual = (i: number, o: number) =>
    (from[i] !== null && from[i] === to[o]) || (i === o && copied.has(i));
  const front: ReshapeBlock[] = [];
  for (;;) {
    const run = isEqualAt(low, lowTo) ? [1, 1] : closedRun(low, lowTo, 1);
    if (run === undefined) break;
    front.push({ from: range(low, low + run[0]!), to: range(lowTo, lowTo + run[1]!) });
    low += run[0]!;
    lowTo += run[1]!;
  }
  const back: ReshapeBlock[] = [];
  for (;;) {
    const run = isEqualAt(high - 1, highTo - 1) ? [1, 1] : closedRun(high - 1, highTo - 1, -1);
    if (run === undefined) break;
    back.unshift({ from: range(high - run[0]!, high), to: range(highTo - run[1]!, highTo) });
    high -= run[0]!;
    highTo -= run[1]!;
  }
  const middle = { from: range(low, high), to: range(lowTo, highTo) };
  if (middle.from.length === 0 && middle.to.length === 0) return [...front, ...back];
  const [before, after] = [middle.from.map((axis) => from[axis]!), middle.to.map((axis) => to[axis]!)];
  const isKnown = [...before, ...after].every((size) => typeof size === 'number');
  if (isKnown && elementCount(before as number[]) !== elementCount(after as number[])) return undefined;
  return [...front, middle, ...back];

  function isEqualAt(i: number, o: number): boolean {
    return i >= low && i < high && o >= lowTo && o < highTo && isEqual(i, o);
  }

  /** How many axes on either side, from here in this direction, have the same product; undefined: none found. */
  function closedRun(i: number, o: number, step: 1 | -1): [number, number] | undefined {
    let [product, productTo, count, countTo] = [1, 1, 0, 0];
    const next = (sizes: Shape, at: number, first: number, end: number): number | undefined => {
      const size = at >= first && at < end ? sizes[at] : undefined;
      return typeof size === 'number' ? size : undefined;
    };
    do {
      const isShort = product < productTo || (product === productTo && count <= countTo);
      const size = isShort
        ? next(from, i + step * count, low, high)
        : next(to, o + step * countTo, lowTo, highTo);
      if (size === undefined) {
        // Axes of size 1 at an end have no partner: they stand alone.
        return product === 1 && productTo === 1 && count + countTo > 0 ? [count, countTo] : undefined;
      }
      if (isShort) {
        product *= size;
        count++;
      } else {
        productTo *= size;
        countTo++;
      }
    } while (product !== productTo || count === 0 || countTo === 0);
    return [count, countTo];
  }
}

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, i) => start + i);
}

/** Axes where a Reshape's target says 0: the input's size there, whatever it is. */
function copiedAxes(context: CouplingContext): Set<number> {
  if (context.node.opType !== 'Reshape' || intAttribute(context.node, 'allowzero', 0) !== 0) return new Set();
  const target = targetOf(context) ?? [];
  return new Set(target.flatMap((size, axis) => (size === 0 ? [axis] : [])));
}

/** Labels that depend on the axes of a run are written out along it; undefined: its sizes are not all known. */
function reshapeLabels(
  labels: Labels,
  from: Shape,
  to: Shape,
  blocks: readonly ReshapeBlock[],
): Labels | undefined {
  const filled = new Array<number>(from.length).fill(1);
  const shape = new Array<number>(to.length).fill(1);
  for (const block of blocks) {
    if (block.from.every((axis) => labels.shape[axis] === 1)) continue;
    // One axis that stays one needs no size: its labels tell.
    if (block.from.length === 1 && block.to.length === 1) {
      filled[block.from[0]!] = shape[block.to[0]!] = labels.shape[block.from[0]!]!;
      continue;
    }
    const inner = innerSizes(labels, from, to, block);
    if (inner !== undefined) {
      for (const [i, axis] of block.from.entries()) filled[axis] = inner.from[i]!;
      for (const [i, axis] of block.to.entries()) shape[axis] = inner.to[i]!;
      continue;
    }
    const [open, ...more] = block.to.filter((axis) => typeof to[axis] !== 'number');
    if (more.length > 0 || block.from.some((axis) => typeof from[axis] !== 'number')) return undefined;
    for (const axis of block.from) filled[axis] = from[axis] as number; // All were just checked to be numbers.
    for (const axis of block.to) shape[axis] = axis === open ? 1 : (to[axis] as number);
    const rest = (side: readonly number[], sizes: number[]) => elementCount(side.map((axis) => sizes[axis]!));
    if (open !== undefined) shape[open] = rest(block.from, filled) / rest(block.to, shape);
  }
  const expanded = expandLabels(labels, filled);
  if (expanded === undefined || elementCount(shape) !== expanded.data.length) return undefined;
  return contractLabels({ shape, data: expanded.data });
}

/**
 * The numbers in the sizes of a run whose names all come last and are the same on both sides, so that they are nothing but
 * positions for each label: [16, h, w] to [4, 4·h·w] is [16, 1, 1] to [4, 4]. Undefined for other runs.
 */
function innerSizes(
  labels: Labels,
  from: Shape,
  to: Shape,
  block: ReshapeBlock,
): { readonly from: readonly number[]; readonly to: readonly number[] } | undefined {
  const sizesOf = (shape: Shape, axes: readonly number[]) => {
    const products = axes.map((axis) => productOf([shape[axis]!]));
    const first = products.findIndex((product) => product === undefined || product.names.length > 0);
    const isInner = products.every(
      (product, i) => product !== undefined && (i <= first || product.count === 1),
    );
    if (first < 0 || !isInner) return undefined;
    const names = products.flatMap((product) => product!.names).sort();
    return { names, counts: products.map((product) => product!.count) };
  };
  const [before, after] = [sizesOf(from, block.from), sizesOf(to, block.to)];
  if (before === undefined || before.names.join('\n') !== after?.names.join('\n')) return undefined;
  const isLabelled = (axis: number, i: number) => [1, before.counts[i]].includes(labels.shape[axis]);
  return block.from.every(isLabelled) ? { from: before.counts, to: after.counts } : undefined;
}

/** Unites along all labelled axes but one, so that the same positions go everywhere. */
function rectangular(context: CouplingContext, labels: Labels): Labels {
  const axes = labelledAxes(labels);
  const wanted = context.factorAxis();
  const kept = wanted !== undefined && axes.includes(wanted) ? wanted : axes.at(-1);
  let result = labels;
  for (const axis of axes) {
    if (axis === kept) continue;
    let first = sliceLabels(result, axis, 0, 1);
    for (let i = 1; i < result.shape[axis]!; i++) {
      first = uniteLabels(context, first, sliceLabels(result, axis, i, i + 1));
    }
    result = first;
  }
  return result;
}

/** Elements of a Reshape's target, names and nulls where they are computed. */
function targetOf(context: CouplingContext): readonly Dim[] | undefined {
  const constant = context.constant(1);
  return constant === undefined ? context.partial(1)?.elements : numbersOf(constant);
}

/**
 * Makes a Reshape's target follow what is left of the channels. A target that the graph computes from the batch
 * ([N, -1, 12, 64]) becomes a constant where it can be told without a number: a size that the input has on the same
 * axis is 0 in ONNX's notation, one other unknown size is -1.
 */
function retarget(context: CouplingContext, out: Labels): void {
  const axes = labelledAxes(out);
  if (axes.length === 0) return;
  const values = targetOf(context);
  const from = context.xShape(0) ?? [];
  const before = context.labels(0)!; // There are some, or the output would carry none.
  const isCopy = (axis: number) =>
    axis < before.shape.length && alongAxis(before, axis).join() === alongAxis(out, axis).join();
  // -1 follows by itself, and so does 0 where it copies the very channels.
  const counted = axes.filter((axis) => values?.[axis] !== -1 && !(values?.[axis] === 0 && isCopy(axis)));
  const isMiscopied = (size: Dim, axis: number) =>
    size === 0 && out.shape[axis] === 1 && (before.shape[axis] ?? 1) !== 1;
  const miscopied = values?.flatMap((size, axis) => (isMiscopied(size, axis) ? [axis] : [])) ?? [];
  if (values !== undefined && counted.length === 0 && miscopied.length === 0) return;
  const copiesZero = intAttribute(context.node, 'allowzero', 0) === 0;
  const explicit = values?.map((size, axis) => (miscopied.includes(axis) ? from[axis]! : size));
  const sizes = explicit && settledTarget(explicit, from, copiesZero);
  if (sizes === undefined) {
    const isFollowing = rewriteSizes(context, 1, [...counted, ...miscopied], (pruned) => {
      const now = new Map(counted.map((axis) => [axis, pruned.kept(alongAxis(out, axis))]));
      for (const axis of miscopied) now.set(axis, Number(from[axis]));
      return now;
    });
    if (!isFollowing) context.freeze(out.data, 'is counted in a shape that the graph computes');
    return;
  }
  context.rewrite((pruned) => {
    const target = [...sizes];
    for (const axis of counted) target[axis] = pruned.kept(alongAxis(out, axis));
    return { constants: new Map([[1, int64Tensor(target)]]) };
  });
}

/**
 * A target of which some sizes are names or unknown, told without them: a name that the input has on the same axis is 0
 * in ONNX's notation, one other unknown size is -1. ['N', -1, 12, 64] from ['N', 197, 768] is [0, -1, 12, 64].
 * @returns undefined where that is not enough
 */
export function settledTarget(
  target: readonly Dim[],
  from: Shape | undefined,
  copiesZero: boolean,
): number[] | undefined {
  let isOpen = target.includes(-1);
  const settled: number[] = [];
  for (const [axis, size] of target.entries()) {
    if (typeof size === 'number') settled.push(size);
    else if (copiesZero && size !== null && from?.[axis] === size) settled.push(0);
    else if (isOpen) return undefined;
    else {
      isOpen = true;
      settled.push(-1);
    }
  }
  // What -1 stands for cannot be told next to a size of 0 that is meant as such.
  return !copiesZero && settled.includes(0) && isOpen ? undefined : settled;
}
