import type { Model } from '../../graph/model.ts';
import { foldBatchNorm } from '../passes/fold-batch-norm.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { liftOpset } from '../passes/lift-opset.ts';
import { mergeMatMulBias } from '../passes/merge-mat-mul-bias.ts';
import { removeIdlePads } from '../passes/remove-idle-pads.ts';

/**
 * The floating-point network in the form that is quantised: constants folded, Pads that add nothing
 * removed, MatMul with bias as Gemm, BatchNormalization folded into the
 * convolutions before it, operator set 13 or newer. Computes what the network computed, up to rounding. Ranges are
 * measured on this form, and a prepared network comes back as it is.
 * @throws BonsaiError `unsupported` as `liftOpset`
 */
export function prepareQuantization(model: Model): Model {
  return liftOpset(foldBatchNorm(mergeMatMulBias(removeIdlePads(foldConstants(model)))));
}
