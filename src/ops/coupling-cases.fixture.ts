import { elementCount, float32Tensor, int64Tensor, type Tensor, tensorOf } from '../base/tensor.ts';
import { type AttributeValue, floats as floatsAttribute } from '../graph/attributes.ts';
import { spread } from './op-cases.fixture.ts';
import type { OperatorName } from './table.ts';

/**
 * A network around one operator: image [N, 4, 4, 4] → Conv (6 channels) → operator → matrix product. Its channels must
 * prune as masking does.
 */
export interface CouplingCase {
  readonly title: string;
  readonly opset: number;
  /** What the operator gets: the convolution's [N, 6, 4, 4], its mean [N, 6, 1, 1], or that as [N, 6]. */
  readonly form: 'image' | 'mean' | 'row';
  /** A definite batch where the case's constants contain it; else its size is only named. */
  readonly batch: number | 'N';
  /** Inputs after the first: parameters, or a second convolution like the first one. */
  readonly others: readonly (Tensor | 'branch')[];
  readonly attributes: Readonly<Record<string, AttributeValue>>;
  readonly outputs: number;
  /** The operator gets where the channels are above a threshold, for operators that take true and false. */
  readonly isCondition: boolean;
  /** How many channels the operator's input has. */
  readonly channels: number;
  /** The operator gets the channels as 8-bit integers. */
  readonly isQuantized: boolean;
  /** Channels may go, but what stays then computes something else than the masked network. */
  readonly isInexact: boolean;
  /** Nothing may be pruned here. */
  readonly isFrozen: boolean;
}

/** How many channels the operator's input has where a case does not say otherwise. */
export const CASE_CHANNELS = 6;

const passing = {
  Abs: [couple('pass')],
  Asinh: [couple('pass')],
  Atan: [couple('pass')],
  Ceil: [couple('pass')],
  Celu: [couple('pass')],
  Clip: [couple('pass', { others: [floats([]), floats([], 1)] })],
  Cos: [couple('pass')],
  Cosh: [couple('pass')],
  Dropout: [couple('pass')],
  Elu: [couple('pass')],
  Erf: [couple('pass')],
  Exp: [couple('pass')],
  Floor: [couple('pass')],
  Gelu: [couple('pass', { opset: 20 })],
  GlobalAveragePool: [couple('pass')],
  HardSigmoid: [couple('pass')],
  HardSwish: [couple('pass')],
  Identity: [couple('pass')],
  LeakyRelu: [couple('pass')],
  Log: [couple('pass')],
  Mish: [couple('pass', { opset: 18 })],
  Neg: [couple('pass')],
  Reciprocal: [couple('pass')],
  Relu: [couple('pass')],
  Round: [couple('pass')],
  Selu: [couple('pass')],
  Shrink: [couple('pass')],
  Sigmoid: [couple('pass')],
  Sign: [couple('pass')],
  Sin: [couple('pass')],
  Sinh: [couple('pass')],
  Softplus: [couple('pass')],
  Softsign: [couple('pass')],
  Sqrt: [couple('pass')],
  Tan: [couple('pass')],
  Tanh: [couple('pass')],
  ThresholdedRelu: [couple('pass')],
};

/** Operators without a row have no coupling rule, or no activation as input (Constant). */
export const COUPLING_CASES: Partial<Record<OperatorName, readonly CouplingCase[]>> = {
  ...passing,
  And: [couple('a mask per channel', { isCondition: true, others: [flags([6, 1, 1])] })],
  Not: [couple('pass', { isCondition: true })],
  Or: [couple('a mask per channel', { isCondition: true, others: [flags([6, 1, 1])] })],
  Where: [
    couple('between branches', { isCondition: true, others: ['branch', 'branch'] }),
    couple('with constants', { isCondition: true, others: [floats([6, 1, 1]), floats([])] }),
  ],
  Xor: [couple('a mask per channel', { isCondition: true, others: [flags([6, 1, 1])] })],
  Add: broadcasting(),
  ArgMax: [
    couple('over space', { attributes: { axis: 3 } }),
    couple('over space, dropped', { attributes: { axis: -1, keepdims: 0 } }),
    couple('over channels', { attributes: { axis: 1 }, isFrozen: true }),
  ],
  ArgMin: [couple('over space', { attributes: { axis: 2 } })],
  AveragePool: [couple('pass', { attributes: { kernel_shape: [2, 2], strides: [2, 2] } })],
  BatchNormalization: [
    couple('sliced', { others: [0, 1, 2, 3].map((seed) => floats([6], seed)) }),
    couple('for each position', {
      opset: 8,
      others: [0, 1, 2, 3].map((seed) => floats([6, 4, 4], seed)),
      attributes: { spatial: 0 },
      isFrozen: true,
    }),
  ],
  Cast: [couple('pass', { attributes: { to: 1 } })],
  CastLike: [couple('pass', { others: [floats([1])] })],
  Concat: [
    couple('branches on channels', { others: ['branch'], attributes: { axis: 1 } }),
    couple('branches in space', { others: ['branch'], attributes: { axis: 3 } }),
    couple('with a constant on channels', {
      batch: 2,
      others: [floats([2, 3, 4, 4])],
      attributes: { axis: 1 },
    }),
    couple('with a constant in space', { batch: 2, others: [floats([2, 6, 1, 4])], attributes: { axis: 2 } }),
  ],
  Conv: [
    couple('dense', { others: [floats([5, 6, 3, 3]), floats([5], 1)] }),
    couple('depthwise', { others: [floats([6, 1, 3, 3])], attributes: { group: 6 } }),
    couple('depthwise, two each', { others: [floats([12, 1, 1, 1])], attributes: { group: 6 } }),
    couple('grouped', { others: [floats([9, 2, 1, 1])], attributes: { group: 3 } }),
  ],
  ConvTranspose: [
    couple('dense', { others: [floats([6, 5, 2, 2]), floats([5], 1)], attributes: { strides: [2, 2] } }),
    couple('depthwise', { others: [floats([6, 1, 3, 3]), floats([6], 1)], attributes: { group: 6 } }),
    couple('depthwise, two each', {
      others: [floats([6, 2, 1, 1]), floats([12], 1)],
      attributes: { group: 6 },
    }),
    couple('grouped', { others: [floats([6, 2, 2, 2]), floats([6], 1)], attributes: { group: 3 } }),
    couple('grouped, one output each', { others: [floats([6, 1, 2, 2])], attributes: { group: 2 } }),
  ],
  CumSum: [
    couple('along space', { others: [int64Tensor([3], [])] }),
    couple('along channels', { others: [int64Tensor([1], [])], isFrozen: true }),
  ],
  DepthToSpace: [
    couple('depth first', { channels: 12, attributes: { blocksize: 2 } }),
    couple('columns first', { channels: 12, attributes: { blocksize: 2, mode: 'CRD' } }),
  ],
  DequantizeLinear: [
    couple('a whole number for each channel', {
      isQuantized: true,
      others: [floats([6]), integers([6])],
      attributes: { axis: 1 },
    }),
  ],
  Div: broadcasting(),
  Einsum: [
    couple('weight', { form: 'row', others: [floats([6, 5])], attributes: { equation: 'ni,io->no' } }),
    couple('contracted with a branch', {
      others: ['branch'],
      attributes: { equation: 'bchw,bchv->bwv' },
    }),
    couple('once per channel', { others: ['branch'], attributes: { equation: 'bcij,bcjk->bcik' } }),
    couple('all pairs of channels, of which the first go', {
      others: ['branch'],
      attributes: { equation: 'bchw,bdhw->bcd' },
    }),
    couple('a sum over channels', {
      others: [floats([4, 5])],
      attributes: { equation: 'bchw,wv->bhv' },
      isFrozen: true,
    }),
  ],
  Equal: [couple('a mask per channel', { isCondition: true, others: [flags([6, 1, 1])] })],
  Expand: [
    couple('space repeated', { form: 'mean', batch: 2, others: [int64Tensor([1, 1, 4, 4])] }),
    couple('space repeated, channels counted', {
      form: 'mean',
      batch: 2,
      others: [int64Tensor([2, 6, 1, 3])],
    }),
    couple('more axes', { form: 'row', batch: 2, others: [int64Tensor([1, 2, 6])] }),
  ],
  Flatten: [
    couple('channels with the batch', { batch: 2, attributes: { axis: 2 }, isFrozen: true }),
    couple('channels and space'),
    couple('a row', { form: 'row' }),
  ],
  Gather: [
    couple('reordered channels', { others: [int64Tensor([5, 0, 3, 3])], attributes: { axis: 1 } }),
    couple('positions', { others: [int64Tensor([2, 0])], attributes: { axis: 3 } }),
    couple('one position', { others: [int64Tensor([2], [])], attributes: { axis: 2 } }),
    couple('positions in rows', { others: [int64Tensor([2, 0, 1, 1], [2, 2])], attributes: { axis: 3 } }),
    couple('one channel', { others: [int64Tensor([2], [])], attributes: { axis: 1 }, isFrozen: true }),
  ],
  Gemm: [
    couple('transposed', {
      form: 'row',
      others: [floats([5, 6]), floats([5], 1)],
      attributes: { transB: 1 },
    }),
    couple('plain', { form: 'row', others: [floats([6, 5])] }),
    couple('bias of one row', { form: 'row', others: [floats([6, 5]), floats([1, 5], 1)] }),
    couple('bias for the whole batch', {
      form: 'row',
      batch: 2,
      others: [floats([6, 5]), floats([2, 5], 1)],
    }),
    couple('one number as bias', { form: 'row', others: [floats([6, 5]), floats([], 1)] }),
  ],
  GlobalLpPool: [couple('pass')],
  GlobalMaxPool: [couple('pass')],
  Greater: [
    couple('constant per channel', { others: [floats([6, 1, 1])] }),
    couple('branches', { others: ['branch'] }),
  ],
  GreaterOrEqual: [couple('branches', { others: ['branch'] })],
  GridSample: [couple('pass', { batch: 2, others: [spread([2, 3, 2, 2], 501, -1, 1)] })],
  GroupNormalization: [
    couple('a scale for each group', {
      opset: 18,
      others: [floats([2]), floats([2], 1)],
      attributes: { num_groups: 2 },
      isInexact: true,
    }),
    couple('a scale for each channel', {
      opset: 21,
      others: [floats([6]), floats([6], 1)],
      attributes: { num_groups: 3 },
      isInexact: true,
    }),
    couple('groups of one', {
      opset: 21,
      others: [floats([6]), floats([6], 1)],
      attributes: { num_groups: 6 },
    }),
  ],
  Hardmax: [
    couple('over space', { attributes: { axis: 3 } }),
    couple('over channels', { attributes: { axis: 1 }, isFrozen: true }),
  ],
  InstanceNormalization: [couple('sliced', { others: [floats([6]), floats([6], 1)] })],
  LRN: [couple('windows of channels', { attributes: { size: 3 }, isFrozen: true })],
  LayerNormalization: [
    couple('over space', { others: [floats([4]), floats([4], 1)] }),
    couple('over all but the batch, one scale', { others: [floats([4, 4])], attributes: { axis: 2 } }),
  ],
  Less: [couple('branches', { others: ['branch'] })],
  LessOrEqual: [couple('branches', { others: ['branch'] })],
  LogSoftmax: [couple('over channels', { attributes: { axis: 1 }, isFrozen: true })],
  LpNormalization: [
    couple('over space', { attributes: { axis: 3 } }),
    couple('over channels', { attributes: { axis: 1 } }),
    couple('over channels, by absolute values', { attributes: { axis: -3, p: 1 } }),
  ],
  LpPool: [couple('pass', { attributes: { kernel_shape: [2, 2], strides: [2, 2] } })],
  MatMul: [
    couple('weight', { form: 'row', others: [floats([6, 5])] }),
    couple('vector', { form: 'row', batch: 2, others: [floats([6, 1])] }),
    couple('a weight for each position', { others: [floats([4, 5])] }),
    couple('a weight for each channel', { others: [floats([6, 4, 5])] }),
    couple('one product a channel', { others: ['branch'] }),
  ],
  Max: broadcasting(),
  MaxPool: [
    couple('pass', { attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] } }),
    couple('telling positions', { attributes: { kernel_shape: [2, 2] }, outputs: 2, isFrozen: true }),
  ],
  MaxRoiPool: [
    couple('pass', {
      batch: 2,
      others: [float32Tensor([2, 5], [0, 0, 0, 3, 3, 1, 1, 1, 3, 3])],
      attributes: { pooled_shape: [2, 2] },
    }),
  ],
  MaxUnpool: [
    couple('positions in all channels', {
      batch: 1,
      others: [
        int64Tensor(
          Array.from({ length: 96 }, (_, i) => 4 * i),
          [1, 6, 4, 4],
        ),
      ],
      attributes: { kernel_shape: [2, 2], strides: [2, 2] },
      isFrozen: true,
    }),
  ],
  Mean: [...broadcasting(), couple('three', { others: ['branch', 'branch'] })],
  MeanVarianceNormalization: [
    couple('each channel'),
    couple('over channels', { attributes: { axes: [1] }, isFrozen: true }),
  ],
  Min: broadcasting(),
  Mod: [couple('constant per channel', { others: [floats([6, 1, 1])], attributes: { fmod: 1 } })],
  Mul: broadcasting(),
  PRelu: [couple('per channel', { others: [floats([6, 1, 1])] })],
  Pad: [
    couple('space', { others: [int64Tensor([0, 0, 1, 1, 0, 0, 1, 1])] }),
    couple('new channels', { others: [int64Tensor([0, 1, 0, 0, 0, 2, 0, 0])] }),
    couple('new channels of named axes', {
      opset: 18,
      others: [int64Tensor([1, 0, 2, 1]), floats([]), int64Tensor([-3, 2])],
    }),
    couple('new channels by attribute', { opset: 10, attributes: { pads: [0, 1, 0, 0, 0, 2, 0, 0] } }),
    couple('reflected channels', {
      others: [int64Tensor([0, 1, 0, 0, 0, 2, 0, 0])],
      attributes: { mode: 'reflect' },
      isFrozen: true,
    }),
  ],
  Pow: [
    couple('square', { others: [int64Tensor([2], [])] }),
    couple('constant per channel', { others: [int64Tensor([1, 2, 3, 1, 2, 3], [6, 1, 1])] }),
  ],
  QuantizeLinear: [
    couple('one scale', { others: [floats([]), integers([])] }),
    couple('a scale for each channel', { others: [floats([6]), integers([6])], attributes: { axis: -3 } }),
    couple('a scale for each row', { others: [floats([4]), integers([4])], attributes: { axis: 2 } }),
  ],
  ReduceL1: summing(),
  ReduceL2: summing(),
  ReduceLogSum: summing(),
  ReduceLogSumExp: reducing(),
  ReduceMax: reducing(),
  ReduceMean: [
    couple('over space', { attributes: { axes: [2, 3], keepdims: 0 } }),
    couple('over channels', { attributes: { axes: [1] }, isFrozen: true }),
  ],
  ReduceMin: reducing(),
  ReduceProd: reducing(),
  ReduceSum: [
    couple('over space', { others: [int64Tensor([2, 3])], attributes: { keepdims: 0 } }),
    couple('over channels', { others: [int64Tensor([1])] }),
    couple('over all but the batch', { others: [int64Tensor([1, 2, 3])], attributes: { keepdims: 0 } }),
  ],
  ReduceSumSquare: summing(),
  Reshape: [
    couple('flatten', { batch: 2, others: [int64Tensor([2, 96])] }),
    couple('flatten, copied batch', { others: [int64Tensor([0, -1])] }),
    couple('channels split in two', { others: [int64Tensor([0, 2, 3, 4, 4])] }),
    couple('channels split, then merged with space', { others: [int64Tensor([0, 3, -1])], batch: 2 }),
    couple('channels split in three, count left open', { others: [int64Tensor([0, -1, 2, 4, 4])] }),
    couple('space merged', { others: [int64Tensor([0, 6, -1])] }),
    couple('channels swallowed by the batch', { others: [int64Tensor([-1, 4])], isFrozen: true }),
  ],
  Resize: [
    couple('by factors', { others: [floats([]), factors([1, 1, 2, 2])], attributes: { mode: 'nearest' } }),
    couple('to sizes that count the channels', {
      batch: 2,
      others: [floats([0]), floats([0]), int64Tensor([2, 6, 7, 5])],
      attributes: { mode: 'linear' },
    }),
    couple('to sizes of named axes', {
      opset: 18,
      others: [floats([0]), floats([0]), int64Tensor([7, 5])],
      attributes: { mode: 'linear', axes: [2, 3] },
    }),
    couple('by factors, as it began', {
      opset: 10,
      others: [factors([1, 1, 2, 2])],
      attributes: { mode: 'nearest' },
    }),
    couple('between channels', {
      others: [floats([0]), factors([1, 1.5, 1, 1])],
      attributes: { mode: 'nearest' },
      isFrozen: true,
    }),
  ],
  RoiAlign: [
    couple('pass', {
      batch: 2,
      others: [float32Tensor([2, 4], [0, 0, 3, 3, 1, 1, 3, 3]), int64Tensor([0, 1])],
      attributes: { output_height: 2, output_width: 2 },
    }),
  ],
  Slice: [
    couple('channels', { others: [int64Tensor([1]), int64Tensor([5]), int64Tensor([1])] }),
    couple('space', { others: [int64Tensor([1]), int64Tensor([3]), int64Tensor([2])] }),
    couple('channels by attribute', { opset: 9, attributes: { starts: [2], ends: [99], axes: [1] } }),
    couple('every second channel', {
      others: [[0], [6], [1], [2]].map((values) => int64Tensor(values)),
    }),
    couple('every second channel from the second on, to the end', {
      others: [[1], [2 ** 62], [-3], [2]].map((values) => int64Tensor(values)),
    }),
    couple('channels backwards', {
      others: [[-1], [-(2 ** 62)], [1], [-1]].map((values) => int64Tensor(values)),
    }),
    couple('every second channel backwards, not the last', {
      channels: 9,
      others: [[-2], [1], [1], [-2]].map((values) => int64Tensor(values)),
    }),
    couple('channels at bounds from the back, and space', {
      others: [
        [-5, 1],
        [-1, 3],
        [-3, 2],
      ].map((values) => int64Tensor(values)),
    }),
  ],
  Softmax: [
    couple('over channels', { attributes: { axis: 1 }, isFrozen: true }),
    couple('over a row', { attributes: { axis: -1 } }),
  ],
  SpaceToDepth: [couple('blocks of two', { attributes: { blocksize: 2 } })],
  Shape: [couple('counted channels', { isFrozen: true })],
  Split: [
    couple('channels by size', { others: [int64Tensor([2, 4])], attributes: { axis: 1 }, outputs: 2 }),
    couple('channels in halves', { attributes: { axis: 1 }, outputs: 2 }),
    couple('channels by size, axis from the back', {
      others: [int64Tensor([1, 5])],
      attributes: { axis: -3 },
      outputs: 2,
    }),
    couple('channels by attribute', { opset: 11, attributes: { axis: 1, split: [2, 4] }, outputs: 2 }),
    couple('channels in parts that are not equal', {
      opset: 18,
      channels: 7,
      attributes: { axis: 1, num_outputs: 3 },
      outputs: 3,
    }),
    couple('space', { attributes: { axis: 2 }, outputs: 2 }),
  ],
  Squeeze: [couple('space', { form: 'mean', others: [int64Tensor([2, 3])] })],
  Sub: broadcasting(),
  Sum: [...broadcasting(), couple('three', { others: ['branch', floats([6, 1, 1])] })],
  Tile: [
    couple('space', { others: [int64Tensor([1, 1, 2, 1])] }),
    couple('channels', { others: [int64Tensor([1, 3, 1, 1])] }),
  ],
  TopK: [
    couple('over space', { others: [int64Tensor([2])], attributes: { axis: 3 }, outputs: 2 }),
    couple('over channels', {
      others: [int64Tensor([2])],
      attributes: { axis: 1 },
      outputs: 2,
      isFrozen: true,
    }),
  ],
  Transpose: [couple('to channels last', { attributes: { perm: [0, 2, 3, 1] } })],
  Trilu: [couple('over space'), couple('over a row', { form: 'row', isFrozen: true })],
  Unsqueeze: [couple('before space', { others: [int64Tensor([2])] })],
  Upsample: [
    couple('by input', { opset: 9, others: [factors([1, 1, 2, 2])], attributes: { mode: 'nearest' } }),
    couple('by attribute', {
      opset: 8,
      attributes: { mode: 'nearest', scales: floatsAttribute([1, 1, 2, 2]) },
    }),
  ],
};

function couple(title: string, options: Partial<Omit<CouplingCase, 'title'>> = {}): CouplingCase {
  return {
    title,
    opset: 17,
    form: 'image',
    batch: 'N',
    others: [],
    attributes: {},
    outputs: 1,
    isCondition: false,
    channels: CASE_CHANNELS,
    isQuantized: false,
    isInexact: false,
    isFrozen: false,
    ...options,
  };
}

function broadcasting(): CouplingCase[] {
  return [
    couple('residual', { others: ['branch'] }),
    couple('constant per channel', { others: [floats([6, 1, 1])] }),
    couple('one constant', { others: [floats([])] }),
    couple('constant per channel and position', { others: [floats([1, 6, 4, 4])] }),
    couple('constant per position', { others: [floats([4, 4])] }),
  ];
}

/** Factors of Resize. */
function factors(values: readonly number[]): Tensor {
  return float32Tensor([values.length], values);
}

/** Zero points. */
function integers(shape: readonly number[]): Tensor {
  return tensorOf('uint8', shape, new Uint8Array(elementCount(shape)).fill(3));
}

/** Positive parameters: safe to divide by, and as variances. */
function floats(shape: readonly number[], seed = 0): Tensor {
  return spread(shape, 500 + seed, 0.5, 1.5);
}

function reducing(): CouplingCase[] {
  return [
    couple('over space', { attributes: { axes: [2, 3], keepdims: 0 } }),
    couple('over channels', { attributes: { axes: [1] }, isFrozen: true }),
  ];
}

function summing(): CouplingCase[] {
  return [
    couple('over space', { attributes: { axes: [2, 3], keepdims: 0 } }),
    couple('over channels', { attributes: { axes: [1] } }),
  ];
}

/** Every second one true. */
function flags(shape: readonly number[]): Tensor {
  return tensorOf(
    'bool',
    shape,
    Uint8Array.from({ length: elementCount(shape) }, (_, i) => i % 2),
  );
}
