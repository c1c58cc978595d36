import { int64Tensor, type Tensor } from '../base/tensor.ts';
import type { AttributeValue } from '../graph/attributes.ts';
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
  /** Nothing may be pruned here. */
  readonly isFrozen: boolean;
}

/** How many channels the operator's input has in every case. */
export const CASE_CHANNELS = 6;

const passing = {
  Abs: [couple('pass')],
  Celu: [couple('pass')],
  Clip: [couple('pass', { others: [floats([]), floats([], 1)] })],
  Dropout: [couple('pass')],
  Elu: [couple('pass')],
  Erf: [couple('pass')],
  Exp: [couple('pass')],
  Gelu: [couple('pass', { opset: 20 })],
  GlobalAveragePool: [couple('pass')],
  HardSigmoid: [couple('pass')],
  HardSwish: [couple('pass')],
  Identity: [couple('pass')],
  LeakyRelu: [couple('pass')],
  Log: [couple('pass')],
  Neg: [couple('pass')],
  Reciprocal: [couple('pass')],
  Relu: [couple('pass')],
  Selu: [couple('pass')],
  Sigmoid: [couple('pass')],
  Softplus: [couple('pass')],
  Softsign: [couple('pass')],
  Sqrt: [couple('pass')],
  Tanh: [couple('pass')],
};

/** Operators without a row have no coupling rule, or no activation as input (Constant). */
export const COUPLING_CASES: Partial<Record<OperatorName, readonly CouplingCase[]>> = {
  ...passing,
  Add: broadcasting(),
  Div: broadcasting(),
  Mul: broadcasting(),
  Sub: broadcasting(),
  AveragePool: [couple('pass', { attributes: { kernel_shape: [2, 2], strides: [2, 2] } })],
  BatchNormalization: [couple('sliced', { others: [0, 1, 2, 3].map((seed) => floats([6], seed)) })],
  Cast: [couple('pass', { attributes: { to: 1 } })],
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
  Flatten: [couple('channels and space'), couple('a row', { form: 'row' })],
  Gather: [
    couple('reordered channels', { others: [int64Tensor([5, 0, 3, 3])], attributes: { axis: 1 } }),
    couple('positions', { others: [int64Tensor([2, 0])], attributes: { axis: 3 } }),
    couple('one channel', { others: [int64Tensor([2], [])], attributes: { axis: 1 }, isFrozen: true }),
  ],
  Gemm: [
    couple('transposed', {
      form: 'row',
      others: [floats([5, 6]), floats([5], 1)],
      attributes: { transB: 1 },
    }),
    couple('plain', { form: 'row', others: [floats([6, 5])] }),
  ],
  LogSoftmax: [couple('over channels', { attributes: { axis: 1 }, isFrozen: true })],
  MatMul: [couple('weight', { form: 'row', others: [floats([6, 5])] })],
  MaxPool: [couple('pass', { attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] } })],
  PRelu: [couple('per channel', { others: [floats([6, 1, 1])] })],
  Pad: [
    couple('space', { others: [int64Tensor([0, 0, 1, 1, 0, 0, 1, 1])] }),
    couple('new channels', { others: [int64Tensor([0, 1, 0, 0, 0, 2, 0, 0])] }),
    couple('new channels by attribute', { opset: 10, attributes: { pads: [0, 1, 0, 0, 0, 2, 0, 0] } }),
    couple('reflected channels', {
      others: [int64Tensor([0, 1, 0, 0, 0, 2, 0, 0])],
      attributes: { mode: 'reflect' },
      isFrozen: true,
    }),
  ],
  ReduceMean: [
    couple('over space', { attributes: { axes: [2, 3], keepdims: 0 } }),
    couple('over channels', { attributes: { axes: [1] }, isFrozen: true }),
  ],
  Reshape: [
    couple('flatten', { batch: 2, others: [int64Tensor([2, 96])] }),
    couple('flatten, copied batch', { others: [int64Tensor([0, -1])] }),
    couple('channels split in two', { others: [int64Tensor([0, 2, 3, 4, 4])] }),
    couple('channels split in three, count left open', { others: [int64Tensor([0, -1, 2, 4, 4])] }),
    couple('space merged', { others: [int64Tensor([0, 6, -1])] }),
    couple('channels swallowed by the batch', { others: [int64Tensor([-1, 4])], isFrozen: true }),
  ],
  Slice: [
    couple('channels', { others: [int64Tensor([1]), int64Tensor([5]), int64Tensor([1])] }),
    couple('space', { others: [int64Tensor([1]), int64Tensor([3]), int64Tensor([2])] }),
    couple('channels by attribute', { opset: 9, attributes: { starts: [2], ends: [99], axes: [1] } }),
    couple('every second channel', {
      others: [[0], [6], [1], [2]].map((values) => int64Tensor(values)),
      isFrozen: true,
    }),
  ],
  Softmax: [
    couple('over channels', { attributes: { axis: 1 }, isFrozen: true }),
    couple('over a row', { attributes: { axis: -1 } }),
  ],
  Split: [
    couple('channels by size', { others: [int64Tensor([2, 4])], attributes: { axis: 1 }, outputs: 2 }),
    couple('channels in halves', { attributes: { axis: 1 }, outputs: 2 }),
    couple('space', { attributes: { axis: 2 }, outputs: 2 }),
  ],
  Squeeze: [couple('space', { form: 'mean', others: [int64Tensor([2, 3])] })],
  Transpose: [couple('to channels last', { attributes: { perm: [0, 2, 3, 1] } })],
  Unsqueeze: [couple('before space', { others: [int64Tensor([2])] })],
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

/** Positive parameters: safe to divide by, and as variances. */
function floats(shape: readonly number[], seed = 0): Tensor {
  return spread(shape, 500 + seed, 0.5, 1.5);
}
