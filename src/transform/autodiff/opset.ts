import { BonsaiError } from '../../base/errors.ts';
import { describeNode, intAttribute } from '../../graph/attributes.ts';
import { DEFAULT_OPSET } from '../../graph/build.ts';
import { type Model, type Node, opsetOf, type Shape } from '../../graph/model.ts';
import { type InferredTypes, inferTypes } from '../../ops/infer.ts';
import { recordFor } from '../../ops/table.ts';
import { liftOpset } from '../passes/lift-opset.ts';

/**
 * A network whose nodes mean in Bonsai's own operator set, in which training steps are written, what they mean in the
 * network's: those that were redefined since are lifted (`liftOpset`). Operators that were not redefined in between,
 * or only to admit more, stay as they are, and so do those with a training form, which knows the network's set.
 * Parameters keep their names.
 * @param inputs shapes of the network's inputs
 * @returns the network itself where all nodes mean the same, and the types of its values
 * @throws BonsaiError `unsupported` naming a node that may mean something else
 */
export function trainableForm(
  model: Model,
  inputs: Readonly<Record<string, Shape>>,
): { readonly model: Model; readonly inferred: InferredTypes } {
  const inferred = inferTypes(model, { inputs });
  if (differingNode(model, inferred.types) === undefined) return { model, inferred };
  const lifted = liftOpset(model);
  const after = lifted === model ? inferred : inferTypes(lifted, { inputs });
  const node = differingNode(lifted, after.types);
  if (node === undefined) return { model: lifted, inferred: after };
  const opset = opsetOf(model) ?? DEFAULT_OPSET;
  throw new BonsaiError(
    'unsupported',
    `${describeNode(node)} may mean something else in opset ${DEFAULT_OPSET}, in which training steps are written, ` +
      `than in the network's opset ${opset}. Export the network again with opset ${DEFAULT_OPSET}.`,
  );
}

/** The first node that may mean something else in Bonsai's operator set. */
function differingNode(model: Model, types: InferredTypes['types']): Node | undefined {
  const opset = opsetOf(model) ?? DEFAULT_OPSET;
  return model.graph.nodes.find((node) => isRedefined(node, opset) && !isSame(node, opset, types));
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
/** Since broadcasting is ONNX's own (opset 7) nothing but what is admitted has changed. */
const WIDENED = [7, NEWEST] as const;

/**
 * Opsets from which and up to which later definitions only admit more types, ranks, optional inputs or attributes. Source:
 * the changelog of ONNX operators.
 */
const SAME_BETWEEN: Readonly<Record<string, readonly [number, number]>> = {
  Abs: WIDENED,
  Add: WIDENED,
  AveragePool: [7, 18],
  BatchNormalization: WIDENED,
  Cast: [7, 18],
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
