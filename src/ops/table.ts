import type { Node } from '../graph/model.ts';
import {
  Abs,
  Celu,
  Elu,
  Erf,
  Exp,
  Gelu,
  HardSigmoid,
  HardSwish,
  LeakyRelu,
  Log,
  Neg,
  Reciprocal,
  Relu,
  Selu,
  Sigmoid,
  Softplus,
  Softsign,
  Sqrt,
  Tanh,
} from './activations.ts';
import { Add, Div, Mul, Sub } from './arithmetic.ts';
import { BatchNormalization } from './batch-normalization.ts';
import { Cast } from './cast.ts';
import { Clip } from './clip.ts';
import { Concat } from './concat.ts';
import { Constant } from './constant.ts';
import { Conv } from './conv.ts';
import { Dropout } from './dropout.ts';
import { Flatten } from './flatten.ts';
import { Gather } from './gather.ts';
import { Gemm } from './gemm.ts';
import { GlobalAveragePool } from './global-average-pool.ts';
import { Identity } from './identity.ts';
import { MatMul } from './mat-mul.ts';
import type { OpRecord } from './op.ts';
import { PRelu } from './p-relu.ts';
import { Pad } from './pad.ts';
import { AveragePool, MaxPool } from './pooling.ts';
import { ReduceMean } from './reduce-mean.ts';
import { Reshape } from './reshape.ts';
import { Shape } from './shape.ts';
import { Slice } from './slice.ts';
import { LogSoftmax, Softmax } from './softmax.ts';
import { Split } from './split.ts';
import { Squeeze } from './squeeze.ts';
import { Transpose } from './transpose.ts';
import { Unsqueeze } from './unsqueeze.ts';

/**
 * Every operator that Bonsai knows, by name. An operator that is not here is carried along unchanged: it has no
 * inferred shape, stops gradients, and freezes the channels that reach it.
 */
export const OPERATORS = tableOf({
  Abs,
  Add,
  AveragePool,
  BatchNormalization,
  Cast,
  Celu,
  Clip,
  Concat,
  Constant,
  Conv,
  Div,
  Dropout,
  Elu,
  Erf,
  Exp,
  Flatten,
  Gather,
  Gelu,
  Gemm,
  GlobalAveragePool,
  HardSigmoid,
  HardSwish,
  Identity,
  LeakyRelu,
  Log,
  LogSoftmax,
  MatMul,
  MaxPool,
  Mul,
  Neg,
  PRelu,
  Pad,
  Reciprocal,
  ReduceMean,
  Relu,
  Reshape,
  Selu,
  Shape,
  Sigmoid,
  Slice,
  Softmax,
  Softplus,
  Softsign,
  Split,
  Sqrt,
  Squeeze,
  Sub,
  Tanh,
  Transpose,
  Unsqueeze,
});

export type OperatorName = keyof typeof OPERATORS;

/** The record of a node's operator, or undefined where Bonsai has none. */
export function recordFor(node: Node): OpRecord | undefined {
  // The standard domain has two spellings.
  return node.domain === '' || node.domain === 'ai.onnx' ? BY_NAME.get(node.opType) : undefined;
}

const BY_NAME: ReadonlyMap<string, OpRecord> = new Map(Object.entries(OPERATORS));

/** The compiler refuses a record under another name than its own. */
function tableOf<
  const T extends { readonly [Name in keyof T]: OpRecord & { readonly schema: { readonly name: Name } } },
>(table: T): T {
  return table;
}
