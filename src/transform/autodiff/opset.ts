import { BonsaiError } from '../../base/errors.ts';
import { describeNode, intAttribute } from '../../graph/attributes.ts';
import { DEFAULT_OPSET } from '../../graph/build.ts';
import { type Model, type Node, opsetOf } from '../../graph/model.ts';
import type { InferredTypes } from '../../ops/infer.ts';
import { recordFor } from '../../ops/table.ts';

/**
 * Training steps are written in Bonsai's own operator set, into which they take the network's nodes as they are, unless
 * the operator has a training form, which knows the network's set. Checks that the nodes mean the same there: that their
 * operator was not redefined in between, or only to admit more.
 * @throws BonsaiError `unsupported` naming a node that may mean something else
 */
export function checkOpset(model: Model, types: InferredTypes['types']): void {
  const opset = opsetOf(model) ?? DEFAULT_OPSET;
  for (const node of model.graph.nodes) {
    if (!isRedefined(node, opset) || isSame(node, opset, types)) continue;
    throw new BonsaiError(
      'unsupported',
      `${describeNode(node)} may mean something else in opset ${DEFAULT_OPSET}, in which training steps are written, ` +
        `than in the network's opset ${opset}. Convert the network to opset ${DEFAULT_OPSET}.`,
    );
  }
}

function isRedefined(node: Node, opset: number): boolean {
  const record = recordFor(node);
  if (record?.training !== undefined) return false;
  const [low, high] = [Math.min(opset, DEFAULT_OPSET), Math.max(opset, DEFAULT_OPSET)];
  return record?.schema.since.some((version) => version > low && version <= high) ?? opset !== DEFAULT_OPSET;
}

function isSame(node: Node, opset: number, types: InferredTypes['types']): boolean {
  const [first, last] = SAME_BETWEEN[node.opType] ?? [DEFAULT_OPSET, DEFAULT_OPSET];
  if (opset >= first && opset <= last) return true;
  if ((node.opType !== 'Softmax' && node.opType !== 'LogSoftmax') || opset >= 13) return false;
  // Until opset 12 all axes from the named one on were one; where that is the last one alone, both mean the same.
  const rank = types.get(node.inputs[0] ?? '')?.shape?.length;
  const axis = intAttribute(node, 'axis', 1);
  return rank !== undefined && (axis < 0 ? axis + rank : axis) === rank - 1;
}

/** The highest opset whose definitions this table was read against. */
const NEWEST = 22;
const WIDENED = [9, NEWEST] as const;

/**
 * Opsets from which and up to which later definitions only admit more types, ranks, optional inputs or attributes. Source:
 * the changelog of ONNX operators.
 */
const SAME_BETWEEN: Readonly<Record<string, readonly [number, number]>> = {
  Abs: WIDENED,
  Add: WIDENED,
  AveragePool: [9, 18],
  BatchNormalization: WIDENED,
  Cast: [9, 18],
  Ceil: WIDENED,
  Concat: WIDENED,
  Constant: WIDENED,
  ConstantOfShape: WIDENED,
  Conv: WIDENED,
  ConvTranspose: WIDENED,
  DepthToSpace: WIDENED,
  Div: WIDENED,
  Elu: WIDENED,
  Equal: WIDENED,
  Erf: WIDENED,
  Exp: WIDENED,
  Expand: WIDENED,
  Flatten: WIDENED,
  Floor: WIDENED,
  Gather: WIDENED,
  Gemm: WIDENED,
  GlobalAveragePool: WIDENED,
  GlobalMaxPool: WIDENED,
  Greater: WIDENED,
  HardSigmoid: WIDENED,
  HardSwish: WIDENED,
  Identity: WIDENED,
  InstanceNormalization: WIDENED,
  LRN: WIDENED,
  LeakyRelu: WIDENED,
  Less: WIDENED,
  Log: WIDENED,
  MatMul: WIDENED,
  Max: WIDENED,
  MaxPool: WIDENED,
  Mean: WIDENED,
  Min: WIDENED,
  Mul: WIDENED,
  Neg: WIDENED,
  PRelu: WIDENED,
  Pow: WIDENED,
  Reciprocal: WIDENED,
  Relu: WIDENED,
  Reshape: WIDENED,
  Shape: WIDENED,
  Sigmoid: WIDENED,
  Sign: WIDENED,
  Softplus: WIDENED,
  SpaceToDepth: WIDENED,
  Sqrt: WIDENED,
  Sub: WIDENED,
  Sum: WIDENED,
  Tanh: WIDENED,
  Tile: WIDENED,
  Transpose: WIDENED,
  Where: WIDENED,
};
