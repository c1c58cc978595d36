import { BonsaiError } from '../../base/errors.ts';
import { elementCount, floatsOf, type Tensor, tensorOf } from '../../base/tensor.ts';

/** What a value was seen to lie between. */
export interface Range {
  readonly min: number;
  readonly max: number;
}

/** x ≈ scale · (q − zeroPoint) with q an unsigned 8-bit integer. */
export interface ActivationScale {
  readonly scale: number;
  readonly zeroPoint: number;
}

/** The range that a value gets which was always 0: any would do, this keeps products with it far from under- and overflow. */
export const RANGE_OF_ZERO: Range = { min: 0, max: 1 };
/** The largest unsigned 8-bit integer. */
const UINT8_MAX = 255;

/**
 * Scale and zero point of an asymmetric uint8 activation. The range is widened to hold 0, which then has an integer of
 * its own: padding and Relu depend on that.
 * Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
 * Inference", section 3.
 * @param bound what the value can never exceed (a Clip's maximum): the scale is rounded so that no integer stands for
 *   more, which lets an engine drop the Clip
 * @throws BonsaiError `invalid_argument` for a range that is not finite or upside down
 */
export function activationScale(range: Range, bound = Number.POSITIVE_INFINITY): ActivationScale {
  if (!(Number.isFinite(range.min) && Number.isFinite(range.max) && range.min <= range.max)) {
    throw new BonsaiError('invalid_argument', `A range should be finite, got ${range.min} to ${range.max}.`);
  }
  let [min, max] = [Math.min(range.min, 0), Math.min(Math.max(range.max, 0), bound)];
  if (!(Math.fround((max - min) / UINT8_MAX) > 0)) ({ min, max } = RANGE_OF_ZERO);
  let scale = Math.fround((max - min) / UINT8_MAX);
  const zeroPoint = Math.min(Math.max(Math.round(-min / scale), 0), UINT8_MAX);
  // Rounding to float32 may leave the largest integer one unit in the last place beyond the bound.
  while (Math.fround((UINT8_MAX - zeroPoint) * scale) > bound) scale = nextBelow(scale);
  return { scale, zeroPoint };
}

function nextBelow(value: number): number {
  const bits = new Int32Array(Float32Array.of(value).buffer);
  bits[0]!--;
  return new Float32Array(bits.buffer)[0]!;
}

/** The largest weight in 8 bits; -128 is left out so that the range is symmetric. */
export const WEIGHT_MAX = 127;
/**
 * The largest weight in 7 bits. Kernels that add two products of uint8 and int8 in 16 bits (x86 without VNNI) cannot
 * overflow then: 2 · 255 · 64 = 32640 < 32767.
 */
export const REDUCED_WEIGHT_MAX = 63;
/** Biases use at most a quarter of int32, so that the sum of products still fits beside them. */
export const BIAS_MAX = 2 ** 29;

export interface QuantizedWeight {
  /** int8, of the weight's shape. */
  readonly weight: Tensor;
  /** float32, one for each channel: w ≈ scale · q. */
  readonly scale: Float32Array;
  /** int32, scale inputScale · scale for each channel; absent where there is no bias. */
  readonly bias?: Tensor;
  /** float32, the scale of each bias. */
  readonly biasScale: Float32Array;
}

/**
 * Symmetric int8 weights with a scale for each output channel, and biases in int32 at the scale of the products. A
 * channel whose weights are so small that its bias would not fit gets the scale at which it does.
 * @param weight float32
 * @param axis along which the output channels lie
 * @param options.bias float32, one value for each channel or one for all
 * @param options.inputScale of the activation that the weight multiplies
 */
export function quantizeWeight(
  weight: Tensor,
  axis: number,
  options: { readonly bias?: Tensor; readonly inputScale: number; readonly reduceRange?: boolean },
): QuantizedWeight {
  const { inputScale, reduceRange = false } = options;
  const most = reduceRange ? REDUCED_WEIGHT_MAX : WEIGHT_MAX;
  const values = floatsOf(weight);
  const channels = weight.shape[axis]!;
  const inner = elementCount(weight.shape.slice(axis + 1));
  const channelAt = (index: number) => Math.floor(index / inner) % channels;

  const largest = new Float64Array(channels);
  for (let i = 0; i < values.length; i++) {
    const c = channelAt(i);
    const size = Math.abs(values[i]!);
    if (!(size <= largest[c]!)) largest[c] = size; // Written so that NaN is kept and found below.
  }
  const given = options.bias && floatsOf(options.bias);
  const biasAt = (c: number) => (given === undefined ? 0 : given[given.length === 1 ? 0 : c]!);
  const scale = new Float32Array(channels);
  for (let c = 0; c < channels; c++) {
    const needed = Math.max(largest[c]! / most, Math.abs(biasAt(c)) / (inputScale * BIAS_MAX));
    if (!Number.isFinite(needed)) {
      throw new BonsaiError(
        'invalid_argument',
        `Channel ${c} has weights or a bias that are not finite numbers; such a network cannot be quantised.`,
      );
    }
    scale[c] = needed;
    // Nothing but zeros: any scale is exact, if only its product with the input's does not vanish.
    if (!(Math.fround(scale[c]! * inputScale) > 0)) scale[c] = 1;
  }
  const quantized = Int8Array.from(values, (value, i) =>
    Math.max(-most, Math.min(most, roundHalfToEven(value / scale[channelAt(i)]!))),
  );
  const biasScale = scale.map((s) => Math.fround(s) * inputScale);
  return {
    weight: tensorOf('int8', weight.shape, quantized),
    scale,
    biasScale,
    ...(given && {
      bias: tensorOf(
        'int32',
        [channels],
        Int32Array.from({ length: channels }, (_, c) => roundHalfToEven(biasAt(c) / biasScale[c]!)),
      ),
    }),
  };
}

/** QuantizeLinear's rounding. */
function roundHalfToEven(value: number): number {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
