import type { Model } from '../../graph/model.ts';
import { foldBatchNorm } from '../passes/fold-batch-norm.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { liftOpset } from '../passes/lift-opset.ts';
import { mergeMatMulBias } from '../passes/merge-mat-mul-bias.ts';
import { removeIdleNodes } from '../passes/remove-idle-nodes.ts';
import { singlePrecisionInside } from '../passes/single-precision.ts';

/**
 * The floating-point network in the form that is quantised: constants folded, 16-bit floats as float32, nodes that change
 * nothing removed, MatMul with bias as Gemm, BatchNormalization folded into the convolutions before it, operator set 13 or
 * newer. Computes what the network computed, up to rounding. Ranges are
 * measured on this form, and a prepared network comes back as it is.
 * @throws BonsaiError `unsupported` as `liftOpset`
 */
export function prepareQuantization(model: Model): Model {
  const single = singlePrecisionInside(foldConstants(model));
  return liftOpset(foldBatchNorm(mergeMatMulBias(removeIdleNodes(single))));
}
