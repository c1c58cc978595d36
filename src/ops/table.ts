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
import { CastLike } from './cast-like.ts';
import { Clip } from './clip.ts';
import { And, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Not, Or, Xor } from './comparisons.ts';
import { Concat } from './concat.ts';
import { Constant } from './constant.ts';
import { ConstantOfShape } from './constant-of-shape.ts';
import { Conv } from './conv.ts';
import { ConvTranspose } from './conv-transpose.ts';
import { DepthToSpace, SpaceToDepth } from './depth-to-space.ts';
import { Dropout } from './dropout.ts';
import { Einsum } from './einsum.ts';
import {
  Asinh,
  Atan,
  Ceil,
  Cos,
  Cosh,
  Floor,
  IsInf,
  IsNaN,
  Mish,
  Round,
  Shrink,
  Sign,
  Sin,
  Sinh,
  Tan,
  ThresholdedRelu,
} from './element-functions.ts';
import { Expand } from './expand.ts';
import { Flatten } from './flatten.ts';
import { Gather } from './gather.ts';
import { Gemm } from './gemm.ts';
import { GlobalAveragePool } from './global-average-pool.ts';
import { GlobalLpPool, GlobalMaxPool } from './global-pooling.ts';
import { GroupNormalization } from './group-normalization.ts';
import { Identity } from './identity.ts';
import { GatherElements, GatherND, NonZero, OneHot, ScatterElements, ScatterND } from './indexing.ts';
import { InstanceNormalization } from './instance-normalization.ts';
import { LayerNormalization } from './layer-normalization.ts';
import { LRN } from './lrn.ts';
import { MatMul } from './mat-mul.ts';
import { Mod } from './mod.ts';
import {
  ArgMax,
  ArgMin,
  CumSum,
  Hardmax,
  LpNormalization,
  MeanVarianceNormalization,
  TopK,
} from './one-axis.ts';
import type { OpRecord } from './op.ts';
import { PRelu } from './p-relu.ts';
import { Pad } from './pad.ts';
import { AveragePool, LpPool, MaxPool, MaxUnpool } from './pooling.ts';
import { Pow } from './pow.ts';
import { DequantizeLinear, QuantizeLinear } from './quantize-linear.ts';
import { Range } from './range.ts';
import { GRU, LSTM, RNN } from './recurrent.ts';
import { ReduceMean } from './reduce-mean.ts';
import {
  ReduceL1,
  ReduceL2,
  ReduceLogSum,
  ReduceLogSumExp,
  ReduceMax,
  ReduceMin,
  ReduceProd,
  ReduceSum,
  ReduceSumSquare,
} from './reductions.ts';
import { Reshape } from './reshape.ts';
import { Resize, Upsample } from './resize.ts';
import { GridSample, MaxRoiPool, RoiAlign } from './sampling.ts';
import { Shape } from './shape.ts';
import { Size } from './size.ts';
import { Slice } from './slice.ts';
import { LogSoftmax, Softmax } from './softmax.ts';
import { Split } from './split.ts';
import { Squeeze } from './squeeze.ts';
import { Tile } from './tile.ts';
import { Transpose } from './transpose.ts';
import { Trilu } from './trilu.ts';
import { Unsqueeze } from './unsqueeze.ts';
import { Max, Mean, Min, Sum } from './variadic.ts';
import { Where } from './where.ts';

/**
 * Every operator that Bonsai knows, by name. An operator that is not here is carried along unchanged: it has no
 * inferred shape, stops gradients, and freezes the channels that reach it.
 */
export const OPERATORS = tableOf({
  Abs,
  Add,
  And,
  ArgMax,
  ArgMin,
  Asinh,
  Atan,
  AveragePool,
  BatchNormalization,
  Cast,
  CastLike,
  Ceil,
  Celu,
  Clip,
  Concat,
  Constant,
  ConstantOfShape,
  Conv,
  ConvTranspose,
  Cos,
  Cosh,
  CumSum,
  DepthToSpace,
  DequantizeLinear,
  Div,
  Dropout,
  Einsum,
  Elu,
  Equal,
  Erf,
  Exp,
  Expand,
  Flatten,
  Floor,
  Gather,
  GatherElements,
  GRU,
  GatherND,
  Gelu,
  Gemm,
  GlobalAveragePool,
  GlobalLpPool,
  GlobalMaxPool,
  Greater,
  GreaterOrEqual,
  GridSample,
  GroupNormalization,
  HardSigmoid,
  HardSwish,
  Hardmax,
  Identity,
  InstanceNormalization,
  IsInf,
  IsNaN,
  LRN,
  LSTM,
  LayerNormalization,
  LeakyRelu,
  Less,
  LessOrEqual,
  Log,
  LogSoftmax,
  LpNormalization,
  LpPool,
  MatMul,
  Max,
  MaxPool,
  MaxRoiPool,
  MaxUnpool,
  Mean,
  MeanVarianceNormalization,
  Min,
  Mish,
  Mod,
  Mul,
  Neg,
  NonZero,
  Not,
  OneHot,
  Or,
  PRelu,
  Pad,
  Pow,
  QuantizeLinear,
  RNN,
  Range,
  Reciprocal,
  ReduceL1,
  ReduceL2,
  ReduceLogSum,
  ReduceLogSumExp,
  ReduceMax,
  ReduceMean,
  ReduceMin,
  ReduceProd,
  ReduceSum,
  ReduceSumSquare,
  Relu,
  Reshape,
  Resize,
  RoiAlign,
  Round,
  ScatterElements,
  ScatterND,
  Selu,
  Shape,
  Shrink,
  Sigmoid,
  Sign,
  Sin,
  Sinh,
  Size,
  Slice,
  Softmax,
  Softplus,
  Softsign,
  SpaceToDepth,
  Split,
  Sqrt,
  Squeeze,
  Sub,
  Sum,
  Tan,
  Tanh,
  ThresholdedRelu,
  Tile,
  TopK,
  Transpose,
  Trilu,
  Unsqueeze,
  Upsample,
  Where,
  Xor,
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
