import { probeSaturation } from '../../engine/probe-saturation.ts';
import { type Model, withMetadata } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { digestOf } from '../../repository/digest.ts';
import { quantize } from '../../transform/quantize/quantize.ts';
import type { Dataset } from '../data/data-module.ts';
import {
  CALIBRATION_METHODS,
  type CalibrationMethod,
  type CalibrationOptions,
  calibrate,
  calibrationDefaults,
} from './calibrate.ts';

/** Where a quantised network's file tells how it came to be (JSON, a `QuantizationRecord`). */
export const QUANTIZATION_KEY = 'bonsai.quantization';

export interface QuantizationRecord {
  readonly method: CalibrationMethod;
  /** Only for method `percentile`. */
  readonly percentile?: number;
  /** Examples that ranges were measured on. */
  readonly samples: number;
  readonly seed: number;
  readonly reduceRange: boolean;
  readonly exclude?: readonly string[];
  /** SHA-256 of the floating-point network's file. */
  readonly parent: string;
}

export interface QuantizeNetworkOptions extends CalibrationOptions {
  /** Weights in 7 bits. Default: where this machine's kernels saturate on 8 (`probeSaturation`). */
  readonly reduceRange?: boolean;
  /** SHA-256 of the file that the network came from. Default: of the network as Bonsai writes it. */
  readonly parent?: string;
}

/**
 * Calibrates a network on examples of the data's training split and quantises it; how is noted in its metadata.
 * @throws what `calibrate` and `quantize` throw
 */
export async function quantizeNetwork(
  model: Model,
  dataset: Dataset,
  options: QuantizeNetworkOptions = {},
): Promise<{ readonly model: Model; readonly record: QuantizationRecord }> {
  const { method, samples, seed, percentile } = { ...calibrationDefaults, ...options };
  const ranges = await calibrate(model, dataset, dataset.train, options);
  const reduceRange = options.reduceRange ?? (await probeSaturation());
  const quantized = quantize(model, ranges, { exclude: options.exclude, reduceRange });
  const record: QuantizationRecord = {
    method,
    ...(method === 'percentile' && { percentile }),
    samples: Math.min(samples, dataset.train.count),
    seed,
    reduceRange,
    ...(options.exclude?.length && { exclude: options.exclude }),
    parent: options.parent ?? digestOf(writeModel(model)),
  };
  return { model: withMetadata(quantized, { [QUANTIZATION_KEY]: JSON.stringify(record) }), record };
}

/** What a network's file tells of its quantisation; undefined where it tells nothing that can be read. */
export function quantizationOf(model: Model): Pick<QuantizationRecord, 'method' | 'samples'> | undefined {
  try {
    const read: unknown = JSON.parse(model.metadata.get(QUANTIZATION_KEY) ?? 'null');
    if (typeof read !== 'object' || read === null || !('method' in read) || !('samples' in read)) {
      return undefined;
    }
    const { method, samples } = read;
    const known = CALIBRATION_METHODS.find((candidate) => candidate === method);
    return known !== undefined && typeof samples === 'number' ? { method: known, samples } : undefined;
  } catch {
    return undefined; // Somebody else's entry under our key.
  }
}
