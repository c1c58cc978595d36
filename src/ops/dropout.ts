import { elementCount } from '../base/tensor.ts';
import { floatAttribute } from '../graph/attributes.ts';
import { passLabels } from './broadcast.ts';
import { requiredType } from './dims.ts';
import { defineOp, type TrainingContext } from './op.ts';

/**
 * Identity at inference. A training step that offers a seed drops elements with probability `ratio` and scales the
 * others by 1 / (1 - ratio); one that offers none (fine-tuning the exported function) trains with the identity.
 */
export const Dropout = defineOp({
  schema: { name: 'Dropout', since: [1, 6, 7, 10, 12, 13, 22], inputs: [1, 3], outputs: [1, 2] },
  shape: ({ node, opset, inputs }) => {
    const x = requiredType(node, inputs, 0);
    const mask = { dtype: opset < 10 ? x.dtype : ('bool' as const), shape: x.shape };
    return node.outputs.length > 1 ? [x, mask] : [x];
  },
  training: (context) => {
    const { node, build, x, stepSeed } = context;
    const factor = stepSeed === undefined ? build.scalar(1) : dropMask(context, stepSeed, context.xShape(0));
    context.keep('factor', factor);
    build.op('Mul', [x(0), factor], {}, { outputs: [node.outputs[0]!], name: node.name });
  },
  gradient: ({ build, dy, kept, needs }) => [
    needs(0) && dy[0] !== undefined ? build.op('Mul', [dy[0], kept('factor')]) : undefined,
  ],
  coupling: (context) => {
    passLabels(context);
    const labels = context.labels(0);
    if (labels !== undefined && context.node.outputs[1]) context.produce(1, labels); // The mask.
  },
});

/** The number of float32 in ONNX's list of types, as Cast wants it. */
const FLOAT = 1;

/** 2^31 - 1, a prime: products of two residues fit into int64. */
export const MASK_MODULUS = 2_147_483_647;
/** Multipliers of element number and step; any two that are coprime to the modulus spread neighbours apart. */
export const MASK_MULTIPLIERS = { element: 48_271, step: 1_299_709_127 } as const;
/** Rounds of x -> x^5 mod p, a permutation since gcd(5, p - 1) = 1; two leave no visible pattern between elements. */
export const MASK_ROUNDS = 2;

/**
 * 0 with probability `ratio`, else 1 / (1 - ratio), for each element: a hash of element number, step seed and output
 * name in exact integer arithmetic, so that the same seed gives the same mask on every machine.
 */
function dropMask(context: TrainingContext, seed: string, shape: readonly number[]): string {
  const { node, build } = context;
  const int = (value: number) => build.ints([value]);
  const modulo = (value: string) => build.op('Mod', [value, int(MASK_MODULUS)]);
  const product = (a: string, b: string) => modulo(build.op('Mul', [a, b]));
  const scalarInt = (value: number) => build.op('Squeeze', [int(value), int(0)]);
  const count = elementCount(shape);
  const index = build.op('Range', [scalarInt(0), scalarInt(count), scalarInt(1)]);
  const step = product(modulo(build.op('Reshape', [seed, int(1)])), int(MASK_MULTIPLIERS.step));
  const salt = int(nameHash(node.outputs[0] ?? ''));
  let hash = modulo(
    build.op('Add', [build.op('Add', [product(modulo(index), int(MASK_MULTIPLIERS.element)), step]), salt]),
  );
  for (let round = 0; round < MASK_ROUNDS; round++) {
    const square = product(hash, hash);
    hash = modulo(build.op('Add', [product(product(square, square), hash), salt]));
  }
  const ratio = ratioValue(context);
  const uniform = build.op('Mul', [build.op('Cast', [hash], { to: FLOAT }), build.scalar(1 / MASK_MODULUS)]);
  const isKept = build.op('Cast', [build.op('GreaterOrEqual', [uniform, ratio])], { to: FLOAT });
  const scaled = build.op('Div', [isKept, build.op('Sub', [build.scalar(1), ratio])]);
  return build.op('Reshape', [scaled, build.ints(shape)]);
}

/** The drop probability as a scalar in the training graph: an attribute before opset 12, an input since. */
function ratioValue({ node, opset, build, x }: TrainingContext): string {
  if (opset < 12) return build.scalar(floatAttribute(node, 'ratio', DEFAULT_RATIO));
  return node.inputs[1] ? x(1) : build.scalar(DEFAULT_RATIO);
}

/** The operator's own default in every version of the specification. */
export const DEFAULT_RATIO = 0.5;

/** A residue that differs between the Dropout nodes of a graph, so that they do not share a mask (FNV-1a). */
function nameHash(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193) >>> 0;
  return hash % MASK_MODULUS;
}
