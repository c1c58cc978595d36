import { permutation, seededRandom } from '../base/random.ts';
import {
  elementCount,
  float32Tensor,
  int64Tensor,
  scalarTensor,
  type Tensor,
  tensorOf,
} from '../base/tensor.ts';
import { type AttributeValue, float, floats as floatsAttribute } from '../graph/attributes.ts';
import type { OperatorName } from './table.ts';

/** One small node of an operator with its inputs: what the laws run on. */
export interface OpCase {
  readonly title: string;
  readonly opset: number;
  readonly inputs: readonly CaseInput[];
  readonly attributes: Readonly<Record<string, AttributeValue>>;
  readonly outputs: number;
  /** Whether the gradient law applies; off where the case is about shapes or integers. Default: where inputs are floats. */
  readonly gradient: boolean;
}

export interface CaseInput {
  /** Undefined: an absent optional input. */
  readonly value: Tensor | undefined;
  /** Stored in the graph rather than fed. */
  readonly isParameter: boolean;
}

/** Cases of every operator; the compiler asks for a row for each. */
export const LAW_CASES: Readonly<Record<OperatorName, readonly OpCase[]>> = {
  Abs: [unary(), shapeArithmetic('numbers', [float32Tensor([3], [-1.5, 0, 2])])],
  Add: broadcasting(),
  And: [
    op('flags', [flags([1, 0, 1, 0], [2, 2], false), flags([1, 0], [2])]),
    op('folded flags', [flags([1, 0], [2]), flags([1], [1])]),
  ],
  ArgMax: [
    op('channels', [data([2, 3, 2])], { axis: 1 }),
    op('dropping', [data([2, 3])], { axis: -1, keepdims: 0 }),
  ],
  ArgMin: [op('first axis', [data([2, 3, 2])])],
  Asinh: [unary()],
  Atan: [unary()],
  AveragePool: [
    op('padded', [data([2, 2, 5, 5])], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }),
    op('counting the padding', [data([1, 2, 5, 4])], {
      kernel_shape: [2, 3],
      strides: [1, 2],
      pads: [1, 0, 0, 1],
      count_include_pad: 1,
    }),
    op('rounding up', [data([1, 1, 6, 6])], { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 }),
  ],
  BatchNormalization: [
    op('inference', [
      data([3, 2, 3, 3]),
      ...[1, 2, 3].map((seed) => weight([2], seed)),
      weight([2], 4, 0.5, 1.5),
    ]),
  ],
  Cast: [
    op('float to float', [data([2, 3])], { to: 1 }),
    shapeArithmetic('to float', [int64Tensor([1, -2, 3])], { to: 1 }),
    shapeArithmetic('to bool', [int64Tensor([0, 5])], { to: 9 }),
    shapeArithmetic('to int32', [int64Tensor([7, -8])], { to: 6 }),
    shapeArithmetic(
      'half precision',
      [
        // 1, -2.5, the smallest number, the largest, an infinity and -0.
        tensorOf('float16', [6], Uint16Array.of(0x3c00, 0xc100, 0x0001, 0x7bff, 0x7c00, 0x8000)),
      ],
      { to: 1 },
    ),
    shapeArithmetic('brain floats', [tensorOf('bfloat16', [2], Uint16Array.of(0x3f80, 0xc020))], { to: 1 }),
    shapeArithmetic('truncating', [float32Tensor([4], [1.5, -1.5, 2.9, 0])], { to: 7 }),
  ],
  CastLike: [op('to int64', [data([2, 3], 0, -4, 4), indices([1])])],
  Ceil: [unary(), shapeArithmetic('floats', [float32Tensor([4], [1.5, -1.5, 2, 0.1])])],
  Celu: [unary({ alpha: 0.7 })],
  Clip: [
    op('both limits', [away([0.5, -0.5]), scalar(-0.5), scalar(0.5)]),
    op('only max', [away([0.4]), absent(), scalar(0.4)]),
    op('as attributes', [away([0.5, -0.25])], { min: float(-0.25), max: float(0.5) }, { opset: 8 }),
    shapeArithmetic('norms', [float32Tensor([3], [0, 0.3, 2]), float32Tensor([], [0.1])]),
  ],
  Concat: [
    op('channels', [data([2, 3, 2, 2]), data([2, 1, 2, 2], 1), data([2, 2, 2, 2], 2)], { axis: 1 }),
    op('negative axis', [data([2, 3]), data([2, 2], 1)], { axis: -1 }),
    op('one input', [data([2, 3])], { axis: 0 }),
    shapeArithmetic('sizes', [int64Tensor([1, 2]), int64Tensor([-1])], { axis: 0 }),
  ],
  Constant: [
    shapeArithmetic('tensor', [], { value: float32Tensor([2, 2], [1, 2, 3, 4]) }),
    shapeArithmetic('int', [], { value_int: 7 }),
    shapeArithmetic('ints', [], { value_ints: [1, -2, 3] }),
    shapeArithmetic('float', [], { value_float: float(1.5) }),
  ],
  ConstantOfShape: [
    shapeArithmetic('zeros', [int64Tensor([2, 3])]),
    shapeArithmetic('ones', [int64Tensor([4])], { value: int64Tensor([1]) }),
    shapeArithmetic('a half', [int64Tensor([2, 1])], { value: float32Tensor([1], [0.5]) }),
  ],
  Conv: [
    op('padded and strided', [data([2, 3, 5, 6]), weight([4, 3, 3, 3]), weight([4], 2)], {
      strides: [2, 2],
      pads: [1, 1, 1, 1],
    }),
    op('dilated, asymmetric padding', [data([1, 2, 6, 6]), weight([2, 2, 3, 2])], {
      dilations: [2, 1],
      pads: [2, 0, 1, 1],
    }),
    op('depthwise', [data([1, 4, 4, 4]), weight([4, 1, 3, 3])], { group: 4, pads: [1, 1, 1, 1] }),
    op('grouped', [data([1, 4, 4, 4]), weight([6, 2, 2, 2])], { group: 2 }),
    op('pointwise', [data([2, 3, 3, 3]), weight([2, 3, 1, 1])]),
    op('one axis', [data([2, 2, 7]), weight([3, 2, 3])], { strides: [2], pads: [1, 1] }),
    op('same padding', [data([1, 2, 5, 5]), weight([2, 2, 3, 3])], {
      auto_pad: 'SAME_UPPER',
      strides: [2, 2],
    }),
  ],
  ConvTranspose: [
    op('padded and strided', [data([2, 3, 4, 5]), weight([3, 4, 3, 3]), weight([4], 2)], {
      strides: [2, 2],
      pads: [1, 1, 1, 1],
    }),
    op('grown at the end', [data([1, 2, 4, 3]), weight([2, 3, 3, 3])], {
      strides: [2, 2],
      pads: [1, 1, 1, 1],
      output_padding: [1, 1],
    }),
    op('grown beyond the kernel', [data([1, 2, 3, 3]), weight([2, 2, 2, 2]), weight([2], 2)], {
      strides: [3, 3],
      output_padding: [2, 1],
    }),
    op('dilated, asymmetric padding', [data([1, 2, 4, 4]), weight([2, 2, 3, 2])], {
      dilations: [2, 1],
      pads: [2, 0, 1, 1],
    }),
    op('to a stated size', [data([1, 2, 4, 4]), weight([2, 3, 3, 3])], {
      strides: [2, 2],
      output_shape: [8, 7],
    }),
    op('same padding', [data([1, 2, 3, 4]), weight([2, 2, 3, 3])], {
      auto_pad: 'SAME_UPPER',
      strides: [2, 2],
    }),
    op('same padding, smaller side first', [data([1, 2, 3, 4]), weight([2, 2, 3, 3])], {
      auto_pad: 'SAME_LOWER',
      strides: [2, 2],
    }),
    op('depthwise', [data([1, 4, 3, 3]), weight([4, 1, 2, 2])], { group: 4, strides: [2, 2] }),
    op('grouped', [data([1, 4, 3, 3]), weight([4, 3, 2, 2])], { group: 2 }),
    op('one axis', [data([2, 2, 5]), weight([2, 3, 3])], { strides: [2], pads: [1, 0] }),
  ],
  Cos: [unary()],
  Cosh: [unary()],
  CumSum: [
    op('last axis', [data([2, 3, 4]), indices([-1], [])]),
    op('from the back, without itself', [data([2, 3]), indices([1], [])], { reverse: 1, exclusive: 1 }),
  ],
  DepthToSpace: [
    op('depth first', [data([2, 8, 2, 3])], { blocksize: 2 }),
    op('columns first', [data([1, 12, 2, 2])], { blocksize: 2, mode: 'CRD' }),
  ],
  DequantizeLinear: [
    op('one scale', [weight8([2, 3], 0), scalar(0.1), zeroPoint([])], {}, { gradient: false }),
    op(
      'per channel',
      [weight8([2, 3], 0), weight([3], 1, 0.1, 0.2), zeroPoint([3])],
      { axis: 1 },
      { gradient: false },
    ),
  ],
  Div: broadcasting((shape, seed) => weight(shape, seed, 0.5, 2)),
  Dropout: [
    op('inference', [data([2, 3])]),
    op('with a ratio', [data([2, 3]), scalar(0.5)]),
    op('as attribute', [data([2, 3])], { ratio: float(0.25) }, { opset: 10 }),
  ],
  Einsum: [
    op('scores', [data([2, 2, 3, 4]), data([2, 2, 5, 4], 1)], { equation: 'bhid,bhjd->bhij' }),
    op('dots', [data([2, 3, 4]), weight([4, 5])], { equation: '...ij, jk -> ...ik' }),
    op('implicit result', [data([3, 2]), weight([3, 4])], { equation: 'ib,ia' }),
    op('one operand', [data([2, 3, 3])], { equation: 'bij->bji' }, { gradient: false }),
    op(
      'three operands',
      [data([2, 3]), data([3, 4]), data([4, 2])],
      { equation: 'ab,bc,cd->ad' },
      { gradient: false },
    ),
  ],
  Elu: [unary({ alpha: 0.8 })],
  Equal: comparing(),
  Erf: [unary()],
  Exp: [unary()],
  Expand: [
    op('to a batch', [data([1, 3, 1]), indices([2, 1, 4])]),
    op('more axes', [data([3, 1]), indices([2, 1, 2])]),
    shapeArithmetic('sizes', [int64Tensor([7], [1, 1]), int64Tensor([2, 3])]),
    shapeArithmetic('data', [float32Tensor([2, 1], [1, 2]), int64Tensor([3, 1, 2])]),
  ],
  Flatten: [
    op('default', [data([2, 3, 2, 2])]),
    op('at the front', [data([2, 3])], { axis: 0 }),
    op('at the end', [data([2, 3, 2])], { axis: 3 }),
    op('negative axis', [data([2, 3, 4])], { axis: -1 }),
  ],
  Floor: [unary(), shapeArithmetic('floats', [float32Tensor([4], [1.5, -1.5, 2, 0.1])])],
  Gather: [
    op('channels', [data([2, 4, 3]), indices([2, 0, -1])], { axis: 1 }),
    op('scalar index', [data([2, 4]), indices([1], [])], { axis: 1 }),
    op('last of all', [data([2, 4, 3]), indices([-1])], { axis: 1 }),
    op('matrix of indices', [data([3, 2]), indices([0, 2, 1, 1], [2, 2])]),
    shapeArithmetic('a size', [int64Tensor([4, 5, 6]), int64Tensor([-1], [])]),
    shapeArithmetic('sizes', [int64Tensor([4, 5, 6]), int64Tensor([2, 0])]),
  ],
  GatherElements: [op('columns', [data([2, 3]), indices([2, 0, 1, 1], [2, 2])], { axis: 1 })],
  GatherND: [
    op('rows', [data([2, 3, 2]), indices([1, 0, 0, 2], [2, 2])]),
    op('batch', [data([2, 3]), indices([1, 2], [2, 1])], { batch_dims: 1 }),
  ],
  GRU: [
    op(
      'both directions',
      [data([4, 2, 3]), weight([2, 15, 3], 1), weight([2, 15, 5], 2)],
      {
        hidden_size: 5,
        direction: 'bidirectional',
        linear_before_reset: 1,
      },
      { outputs: 2, gradient: false },
    ),
  ],
  Gelu: [unary({}, 20), unary({ approximate: 'tanh' }, 20)],
  Gemm: [
    op('plain', [data([2, 3]), weight([3, 4]), weight([4], 2)]),
    op('transposed, scaled', [data([2, 3]), weight([4, 3]), weight([1, 4], 2)], {
      transB: 1,
      alpha: float(0.5),
      beta: float(2),
    }),
    op('first transposed', [data([3, 2]), weight([3, 4])], { transA: 1 }),
  ],
  GlobalAveragePool: [op('plain', [data([2, 3, 3, 4])]), op('one axis', [data([2, 3, 4])])],
  GlobalLpPool: [op('of two axes', [data([2, 3, 3, 4])], {}, { gradient: false })],
  GlobalMaxPool: [op('of two axes', [spaced([2, 3, 3, 4])]), op('one axis', [spaced([2, 3, 4])])],
  Greater: comparing(),
  GreaterOrEqual: comparing(),
  GridSample: [op('a grid of 2 x 3', [data([2, 2, 4, 5]), data([2, 2, 3, 2], 1)], {}, { gradient: false })],
  GroupNormalization: [
    op(
      'scale per group',
      [data([2, 4, 3, 3]), weight([2], 1), weight([2], 2)],
      { num_groups: 2 },
      { opset: 18 },
    ),
    op(
      'scale per channel',
      [data([2, 4, 3]), weight([4], 1), weight([4], 2)],
      { num_groups: 2 },
      { opset: 21 },
    ),
  ],
  HardSigmoid: [op('kinks at ±2.5', [away([-2.5, 2.5], -4, 4)])],
  HardSwish: [op('kinks at ±3', [away([-3, 3], -5, 5)])],
  Hardmax: [op('last axis', [data([2, 3, 4])])],
  Identity: [op('plain', [data([2, 3])]), shapeArithmetic('sizes', [int64Tensor([1, 2])])],
  InstanceNormalization: [
    op('two axes', [data([2, 3, 3, 4]), weight([3], 1), weight([3], 2)]),
    op('one axis, large epsilon', [data([2, 2, 5]), weight([2], 1), weight([2], 2)], { epsilon: float(0.1) }),
  ],
  IsInf: [unary()],
  IsNaN: [unary()],
  LRN: [
    op('three channels', [data([1, 5, 2, 2])], { size: 3, alpha: float(0.5) }),
    op('five channels', [data([2, 6, 3, 1])], { size: 5, alpha: float(2), beta: float(0.5), bias: float(2) }),
  ],
  LSTM: [
    op(
      'three outputs',
      [data([4, 2, 3]), weight([1, 20, 3], 1), weight([1, 20, 5], 2)],
      {
        hidden_size: 5,
      },
      { outputs: 3, gradient: false },
    ),
  ],
  LayerNormalization: [
    op('last axis', [data([2, 3, 4]), weight([4]), weight([4], 2)]),
    op('several axes', [data([2, 3, 4]), weight([3, 4]), weight([4], 2)], { axis: 1, epsilon: float(0.1) }),
    op('without bias, with statistics', [data([2, 3, 4]), weight([4])], {}, { outputs: 3, gradient: false }),
  ],
  LeakyRelu: [unary({ alpha: 0.2 })],
  Less: comparing(),
  LessOrEqual: comparing(),
  Log: [op('positive', [data([2, 3, 2], 0, 0.5, 3)])],
  LogSoftmax: [op('last axis', [data([2, 3, 4])]), op('channels', [data([2, 3, 2, 2])], { axis: 1 })],
  LpNormalization: [
    op('channels', [data([2, 3, 2])], { axis: 1 }),
    op('sums of magnitudes', [away([0])], { axis: -1, p: 1 }),
  ],
  LpPool: [
    op(
      'padded',
      [data([1, 2, 5, 5])],
      { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] },
      { gradient: false },
    ),
  ],
  MatMul: [
    op('matrices', [data([2, 3]), weight([3, 4])]),
    op('batched', [data([2, 2, 3]), data([2, 3, 2], 1)]),
    op('broadcast weight', [data([2, 3, 4]), weight([4, 2])]),
    op('broadcast batch', [data([2, 1, 2, 3]), data([3, 3, 2], 1)]),
  ],
  Max: variadic(),
  MaxPool: [
    op('padded', [spaced([2, 2, 5, 5])], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }),
    op('overlapping', [spaced([1, 2, 5, 5])], { kernel_shape: [3, 2], strides: [1, 1] }),
    op('rounding up', [spaced([1, 1, 6, 6])], { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 }),
  ],
  MaxRoiPool: [
    op(
      'two regions',
      [data([1, 2, 6, 6]), regions([0, 0, 0, 3, 3, 0, 1, 1, 5, 5], 5)],
      { pooled_shape: [2, 2] },
      { gradient: false },
    ),
  ],
  MaxUnpool: [
    op(
      'halves',
      [data([1, 1, 2, 2]), indices([0, 3, 9, 14], [1, 1, 2, 2])],
      { kernel_shape: [2, 2], strides: [2, 2] },
      { gradient: false },
    ),
    op(
      'to a stated size',
      [data([1, 1, 2, 2]), indices([0, 3, 9, 14], [1, 1, 2, 2]), indices([1, 1, 5, 5])],
      { kernel_shape: [2, 2], strides: [2, 2] },
      { gradient: false },
    ),
  ],
  Mean: [op('three', [data([2, 3]), data([3], 1), weight([2, 1], 2)])],
  MeanVarianceNormalization: [op('each channel', [data([2, 3, 2, 2])])],
  Min: variadic(),
  Mish: [unary({}, 18)],
  Mod: [
    shapeArithmetic('sizes', [int64Tensor([7, -7, 8]), int64Tensor([3])]),
    shapeArithmetic('sizes, truncating', [int64Tensor([7, -7, 8]), int64Tensor([3])], { fmod: 1 }),
    op('floats', [data([2, 3]), weight([3], 1, 0.5, 2)], { fmod: 1 }),
  ],
  Mul: broadcasting(),
  Neg: [unary(), shapeArithmetic('sizes', [int64Tensor([-1, 0, 2])])],
  NonZero: [shapeArithmetic('flags', [int64Tensor([1, 0, 2, 0, 0, 3], [2, 3])])],
  Not: [op('flags', [flags([1, 0], [2], false)]), op('folded flags', [flags([1, 0], [2])])],
  OneHot: [
    op('last axis', [{ value: int64Tensor([1, 0, 2]), isParameter: false }, indices([4], []), weight([2])]),
  ],
  Or: [
    op('flags', [flags([1, 0, 1, 0], [2, 2], false), flags([1, 0], [2])]),
    op('folded flags', [flags([1, 0], [2]), flags([0], [1])]),
  ],
  PRelu: [
    op('per channel', [data([2, 3, 2, 2]), weight([3, 1, 1])]),
    op('one slope', [data([2, 3]), weight([1])]),
  ],
  Pad: [
    op('spatial', [data([1, 2, 3, 3]), indices([0, 0, 1, 0, 0, 0, 2, 1])]),
    op('channels, value', [data([1, 2, 2, 2]), indices([0, 1, 0, 0, 0, 2, 0, 0]), scalar(0.5)]),
    op('cropping', [data([1, 2, 4, 4]), indices([0, 0, -1, 1, 0, 0, -1, 0])]),
    op('some axes', [data([1, 2, 3, 3]), indices([1, 2]), absent(), indices([-1])], {}, { opset: 18 }),
    op('as attribute', [data([1, 2, 3, 3])], { pads: [0, 0, 1, 1, 0, 0, 1, 1] }, { opset: 10 }),
    op(
      'reflecting',
      [data([1, 1, 3, 3]), indices([0, 0, 1, 1, 0, 0, 1, 1])],
      { mode: 'reflect' },
      { gradient: false },
    ),
  ],
  Pow: [
    op('square', [away([0]), indices([2], [])]),
    op('per channel', [data([2, 3, 2], 0, 0.5, 2), weight([3, 1], 1, 1, 3)]),
    shapeArithmetic('root', [scalarTensor(64), scalarTensor(0.5)]),
    shapeArithmetic('integers', [int64Tensor([2, 3]), int64Tensor([3])]),
  ],
  QuantizeLinear: [
    op('one scale', [data([2, 3]), scalar(0.1)], {}, { gradient: false }),
    op(
      'per channel',
      [data([2, 3, 2]), weight([3], 1, 0.1, 0.2), zeroPoint([3])],
      { axis: 1 },
      { gradient: false },
    ),
  ],
  RNN: [
    op(
      'steps first',
      [data([4, 2, 3]), weight([1, 5, 3], 1), weight([1, 5, 5], 2)],
      {
        hidden_size: 5,
      },
      { gradient: false },
    ),
  ],
  Range: [
    shapeArithmetic('upwards', [int64Tensor([1], []), int64Tensor([8], []), int64Tensor([3], [])]),
    shapeArithmetic('downwards', [int64Tensor([5], []), int64Tensor([0], []), int64Tensor([-2], [])]),
  ],
  Reciprocal: [
    op('positive', [data([2, 3], 0, 0.5, 3)]),
    shapeArithmetic('numbers', [float32Tensor([3], [3, -0.7, 10])]),
  ],
  ReduceL1: reducing([
    shapeArithmetic('weights', [float32Tensor([2, 3, 1], [3, -4, 0, 1, 2, -2])], { axes: [1] }),
  ]),
  ReduceL2: reducing([
    shapeArithmetic('weights', [float32Tensor([2, 3, 1], [3, -4, 0, 1, 2, -2])], { axes: [1] }),
  ]),
  ReduceLogSum: [op('positive', [data([2, 3, 2], 0, 0.5, 2)], { axes: [1] })],
  ReduceLogSumExp: reducing(),
  ReduceMax: reducing([
    shapeArithmetic('weights', [float32Tensor([2, 3, 1], [3, -4, 0, 1, 2, -2])], { axes: [1] }),
    shapeArithmetic('sizes', [int64Tensor([3, 9, 4])]),
  ]),
  ReduceMean: [
    op('spatial', [data([2, 3, 2, 2])], { axes: [2, 3] }),
    op('without keeping', [data([2, 3, 4])], { axes: [-1], keepdims: 0 }),
    op('everything', [data([2, 3])]),
    op('axes as input', [data([2, 3, 2, 2]), indices([2, 3])], {}, { opset: 18 }),
    shapeArithmetic('weights', [float32Tensor([2, 2, 2], [1, -2, 3, 4.5, 0, 2, 8, -1])], { axes: [0, 2] }),
  ],
  ReduceMin: reducing([shapeArithmetic('sizes', [int64Tensor([3, 9, 4])], { keepdims: 0 })]),
  ReduceProd: reducing([shapeArithmetic('sizes', [int64Tensor([3, 9, 4, 1, 2, 5], [2, 3])], { axes: [1] })]),
  ReduceSum: [
    op('spatial', [data([2, 3, 2, 2]), indices([2, 3])]),
    op('without keeping', [data([2, 3, 4]), indices([-1])], { keepdims: 0 }),
    op('as attribute', [data([2, 3, 4])], { axes: [1] }, { opset: 11 }),
    shapeArithmetic('weights', [float32Tensor([2, 3], [3, -4, 0.5, 1, 2, -2]), int64Tensor([1])]),
    shapeArithmetic('sizes', [int64Tensor([3, 9, 4, 1, 2, 5], [2, 3]), int64Tensor([0])]),
  ],
  ReduceSumSquare: reducing([
    shapeArithmetic('weights', [float32Tensor([2, 3, 1], [3, -4, 0, 1, 2, -2])], { axes: [1] }),
  ]),
  Relu: [unary()],
  Reshape: [
    op('flatten', [data([2, 3, 2, 2]), indices([0, -1])]),
    op('split channels', [data([2, 4, 3, 3]), indices([0, 2, 2, 3, 3])]),
    op('all given', [data([2, 6]), indices([3, 4])]),
    shapeArithmetic('vector', [int64Tensor([1, 2, 3, 4]), int64Tensor([2, -1])]),
  ],
  Resize: [
    op('nearest, twice', [data([1, 2, 3, 4]), absent(), factors([1, 1, 2, 2])], { mode: 'nearest' }),
    op('nearest, floor, uneven', [data([1, 2, 3, 4]), absent(), factors([1, 1, 2.5, 1.3])], {
      mode: 'nearest',
      coordinate_transformation_mode: 'asymmetric',
      nearest_mode: 'floor',
    }),
    op('nearest, smaller', [data([1, 2, 5, 6]), absent(), factors([1, 1, 0.6, 0.5])], { mode: 'nearest' }),
    op('linear to sizes', [data([1, 2, 3, 4]), absent(), absent(), indices([1, 2, 7, 5])], {
      mode: 'linear',
      coordinate_transformation_mode: 'align_corners',
    }),
    op('linear, half pixels', [data([1, 2, 3, 4]), absent(), factors([1, 1, 2, 2])], { mode: 'linear' }),
    op('linear, as PyTorch', [data([1, 1, 4, 4]), absent(), factors([1, 1, 0.5, 2])], {
      mode: 'linear',
      coordinate_transformation_mode: 'pytorch_half_pixel',
    }),
    op(
      'of named axes',
      [data([1, 2, 3, 4]), absent(), absent(), indices([5, 6])],
      { mode: 'nearest', axes: [2, -1] },
      { opset: 18 },
    ),
    op(
      'not larger, ratio kept',
      [data([1, 2, 3, 4]), absent(), absent(), indices([7, 6])],
      { mode: 'nearest', axes: [2, 3], keep_aspect_ratio_policy: 'not_larger' },
      { opset: 18, gradient: false },
    ),
    op(
      'by factors, as it began',
      [data([1, 2, 3, 4]), factors([1, 1, 2, 1.5])],
      { mode: 'nearest' },
      { opset: 10 },
    ),
    op(
      'cubic',
      [data([1, 1, 4, 4]), absent(), factors([1, 1, 1.7142857, 2])],
      { mode: 'cubic' },
      { gradient: false },
    ),
  ],
  RoiAlign: [
    op(
      'two regions',
      [data([1, 2, 6, 6]), regions([0, 0, 3, 3, 1, 1, 5, 5], 4), indices([0, 0])],
      { output_height: 2, output_width: 3 },
      { gradient: false },
    ),
  ],
  Round: [unary(), shapeArithmetic('halves', [float32Tensor([5], [0.5, 1.5, -2.5, 2.4, -0.6])])],
  ScatterElements: [op('columns', [data([2, 3]), indices([2, 0], [2, 1]), weight([2, 1])], { axis: 1 })],
  ScatterND: [op('rows', [data([3, 2]), indices([2, 0], [2, 1]), weight([2, 2])])],
  Selu: [unary(), unary({ alpha: 1.2, gamma: float(0.9) })],
  Shape: [
    op('whole', [data([2, 3, 4])], {}, { gradient: false }),
    op('part', [data([2, 3, 4])], { start: -2, end: 10 }, { gradient: false }),
  ],
  Shrink: [op('soft', [away([-0.5, 0.5])], { lambd: float(0.5), bias: float(0.5) })],
  Sigmoid: [unary()],
  Sign: [unary(), shapeArithmetic('sizes', [int64Tensor([-4, 0, 2])])],
  Sin: [unary()],
  Sinh: [unary()],
  Size: [op('of data', [data([2, 3, 4])])],
  Slice: [
    op('to the end', [data([2, 5, 4]), indices([1, -3]), indices([2 ** 62, -1]), indices([1, 2])]),
    op('backwards', [data([2, 5]), indices([-1]), indices([-(2 ** 31)]), indices([1]), indices([-2])]),
    op('every third of two axes', [
      data([2, 7, 8]),
      indices([1, 0]),
      indices([6, 2 ** 62]),
      indices([1, -1]),
      indices([3, 3]),
    ]),
    op('nothing', [data([2, 3]), indices([2]), indices([2]), indices([1])], {}, { gradient: false }),
    op('as attributes', [data([2, 5])], { starts: [0, 1], ends: [1, 9], axes: [0, 1] }, { opset: 9 }),
    shapeArithmetic('sizes', [int64Tensor([4, 5, 6]), int64Tensor([1]), int64Tensor([3]), int64Tensor([0])]),
  ],
  Softmax: [op('last axis', [data([2, 3, 4])]), op('channels', [data([2, 3, 2, 2])], { axis: 1 })],
  Softplus: [unary()],
  Softsign: [unary()],
  SpaceToDepth: [op('blocks of two', [data([2, 3, 4, 6])], { blocksize: 2 })],
  Split: [
    op('sizes', [data([2, 5, 2]), indices([2, 3])], { axis: 1 }, { outputs: 2 }),
    op('equal', [data([2, 6])], { axis: -1 }, { outputs: 3 }),
    op('as attribute', [data([2, 5])], { axis: 1, split: [1, 4] }, { opset: 11, outputs: 2 }),
    op('uneven', [data([2, 5])], { axis: 1, num_outputs: 3 }, { opset: 18, outputs: 3 }),
  ],
  Sqrt: [op('positive', [data([2, 3], 0, 0.5, 3)])],
  Squeeze: [
    op('named', [data([2, 1, 3, 1]), indices([1, -1])]),
    op('all', [data([2, 1, 3, 1])]),
    op('as attribute', [data([2, 1, 3])], { axes: [1] }, { opset: 11 }),
    shapeArithmetic('a size', [int64Tensor([7]), int64Tensor([0])]),
  ],
  Sub: broadcasting(),
  Sum: variadic(),
  Tan: [op('inside', [data([2, 3])])],
  Tanh: [unary()],
  ThresholdedRelu: [op('kink at 0.5', [away([0.5])], { alpha: float(0.5) })],
  Tile: [
    op('two axes', [data([2, 3, 1]), indices([1, 2, 3])]),
    shapeArithmetic('data', [float32Tensor([2, 2], [1, 2, 3, 4]), int64Tensor([2, 3])]),
  ],
  TopK: [op('last axis', [spaced([2, 5]), indices([3])], {}, { outputs: 2 })],
  Transpose: [
    op('to channels last', [data([2, 3, 4, 2])], { perm: [0, 2, 3, 1] }),
    op('reversed', [data([2, 3, 4])]),
  ],
  Trilu: [
    op('upper', [data([2, 3, 4])]),
    op('lower, above the diagonal', [data([3, 3]), indices([1], [])], { upper: 0 }),
    shapeArithmetic('mask', [float32Tensor([3, 3], [1, 1, 1, 1, 1, 1, 1, 1, 1])], { upper: 0 }),
  ],
  Unsqueeze: [
    op('two axes', [data([2, 3]), indices([0, -1])]),
    op('as attribute', [data([2, 3])], { axes: [1, 3] }, { opset: 11 }),
    shapeArithmetic('a size', [int64Tensor([7], []), int64Tensor([0])]),
  ],
  Upsample: [
    op('by input', [data([1, 2, 3, 3]), factors([1, 1, 2, 2])], { mode: 'nearest' }, { opset: 9 }),
    op(
      'by a broken factor',
      [data([1, 1, 3, 3]), factors([1, 1, 1.5, 2])],
      { mode: 'nearest' },
      { opset: 9 },
    ),
    op(
      'by attribute',
      [data([1, 2, 3, 3])],
      { mode: 'linear', scales: floatsAttribute([1, 1, 2, 2]) },
      { opset: 8 },
    ),
  ],
  Where: [
    op('condition per position', [flags([1, 0, 0, 1, 1, 0], [2, 3]), data([2, 3]), weight([3], 1)]),
    op('broadcast', [flags([1, 0], [2, 1, 1]), data([2, 3, 2]), data([3, 1], 1)]),
    op(
      'folded sizes',
      [flags([1, 0], [2]), ...[5, 7].map((size) => indices([size, size + 1]))],
      {},
      { gradient: false },
    ),
  ],
  Xor: [
    op('flags', [flags([1, 0, 1, 0], [2, 2], false), flags([1, 0], [2])]),
    op('folded flags', [flags([1, 0], [2]), flags([1], [1])]),
  ],
};

function op(
  title: string,
  inputs: readonly CaseInput[],
  attributes: OpCase['attributes'] = {},
  options: { opset?: number; outputs?: number; gradient?: boolean } = {},
): OpCase {
  const { opset = 17, outputs = 1, gradient = true } = options;
  return { title, opset, inputs, attributes, outputs, gradient };
}

/** A node whose inputs are all known before running: the folded value is compared. */
function shapeArithmetic(
  title: string,
  inputs: readonly Tensor[],
  attributes: OpCase['attributes'] = {},
): OpCase {
  return op(
    `folded ${title}`,
    inputs.map((value) => ({ value, isParameter: true })),
    attributes,
    { gradient: false },
  );
}

/** An element-wise operator on values on both sides of 0, none nearer than 0.05. */
function unary(attributes: OpCase['attributes'] = {}, opset = 17): OpCase {
  const options = Object.fromEntries(
    Object.entries(attributes).map(([key, value]) => [key, typeof value === 'number' ? float(value) : value]),
  );
  return op(
    `element-wise ${Object.values(attributes).length > 0 ? JSON.stringify(attributes) : ''}`,
    [away([0])],
    options,
    { opset },
  );
}

function broadcasting(
  second: (shape: readonly number[], seed: number) => CaseInput = (shape, seed) => weight(shape, seed),
): OpCase[] {
  return [
    op('equal shapes', [data([2, 3]), second([2, 3], 1)]),
    op('per channel', [data([2, 3, 2, 2]), second([3, 1, 1], 1)]),
    op('scalar', [data([2, 3]), second([], 1)]),
    op('both ways', [data([2, 1, 3]), second([4, 1], 1)]),
    shapeArithmetic('sizes', [int64Tensor([7, -7, 8]), int64Tensor([2])]),
  ];
}

function data(shape: readonly number[], seed = 0, low = -1, high = 1): CaseInput {
  return { value: spread(shape, 100 + seed, low, high), isParameter: false };
}

function weight(shape: readonly number[], seed = 1, low = -1, high = 1): CaseInput {
  return { value: spread(shape, 200 + seed, low, high), isParameter: true };
}

/** Values that differ by much more than the finite difference's step, so that no maximum changes hands. */
function spaced(shape: readonly number[]): CaseInput {
  return { value: spread(shape, 300, -2, 2), isParameter: false };
}

/** Values that keep 0.05 away from kinks of the function. */
function away(kinks: readonly number[], low = -2, high = 2): CaseInput {
  const tensor = spread([3, 4], 400, low, high);
  const values = Array.from(new Float32Array(tensor.bytes.buffer as ArrayBuffer), (value) => {
    const near = kinks.find((kink) => Math.abs(value - kink) < 0.05);
    return near === undefined ? value : near + (value < near ? -0.05 : 0.05);
  });
  return { value: float32Tensor([3, 4], values), isParameter: false };
}

function scalar(value: number): CaseInput {
  return { value: float32Tensor([], [value]), isParameter: true };
}

function indices(values: readonly number[], shape: readonly number[] = [values.length]): CaseInput {
  return { value: int64Tensor(values, shape), isParameter: true };
}

/** Factors of Resize, stored. */
function factors(values: readonly number[]): CaseInput {
  return { value: float32Tensor([values.length], values), isParameter: true };
}

/** Small 8-bit integers, stored. */
function weight8(shape: readonly number[], zero: number): CaseInput {
  const values = Int8Array.from({ length: elementCount(shape) }, (_, i) => zero + 3 * i - 7);
  return { value: tensorOf('int8', shape, values), isParameter: true };
}

function zeroPoint(shape: readonly number[]): CaseInput {
  return { value: tensorOf('int8', shape, new Int8Array(elementCount(shape)).fill(2)), isParameter: true };
}

/** Corners of regions, perhaps with the image they lie in, `width` numbers each. */
function regions(values: readonly number[], width: number): CaseInput {
  return { value: float32Tensor([values.length / width, width], values), isParameter: true };
}

function absent(): CaseInput {
  return { value: undefined, isParameter: true };
}

/** Evenly spread values in a seeded order: none equal, none at a bound. */
export function spread(shape: readonly number[], seed: number, low: number, high: number): Tensor {
  const count = elementCount(shape);
  const order = permutation(count, seededRandom(seed));
  return float32Tensor(
    shape,
    Float32Array.from(order, (rank) => low + ((high - low) * (rank + 0.37)) / count),
  );
}

/** A reduction along several axes, given as attributes as they were before opset 18. */
function reducing(more: readonly OpCase[] = []): OpCase[] {
  return [
    op('spatial', [spaced([2, 3, 2, 2])], { axes: [2, 3] }),
    op('without keeping', [spaced([2, 3, 4])], { axes: [-1], keepdims: 0 }),
    op('everything', [spaced([2, 3])]),
    op('axes as input', [spaced([2, 3, 2]), indices([2])], {}, { opset: 18 }),
    ...more,
  ];
}

function comparing(): OpCase[] {
  return [
    op('floats', [data([2, 3]), weight([3])]),
    shapeArithmetic('sizes', [int64Tensor([3, -1, 4]), int64Tensor([-1])]),
    shapeArithmetic('sizes in rows', [int64Tensor([3, -1, 4, 5], [2, 2]), int64Tensor([4, 5])]),
  ];
}

function variadic(): OpCase[] {
  return [
    op('three', [data([2, 3]), data([3], 1), weight([2, 1], 2)]),
    op('one', [data([2, 3])]),
    shapeArithmetic(
      'floats',
      [[1, -2], [0.5], [3, -4]].map((values) => float32Tensor([values.length], values)),
    ),
  ];
}

function flags(values: readonly number[], shape: readonly number[], isParameter = true): CaseInput {
  return { value: tensorOf('bool', shape, Uint8Array.from(values)), isParameter };
}
