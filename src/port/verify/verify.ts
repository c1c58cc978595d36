import { workerUrl } from '../../base/worker-url.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { runJob } from '../worker-job.ts';
import type { Delivered, Verification, VerifyOptions, VerifyProgress } from './mask-equivalence.ts';

/**
 * Proves on random channels that a network can be pruned without a wrong slice: the pruned network has to compute what the
 * full one computes when nothing reads the removed channels. In a worker thread; see `maskEquivalence` for what is compared.
 * @param model the network before pruning; with `delivered`, the `reference` of that result
 * @throws BonsaiError as `maskEquivalence`, and `worker_lost`
 */
export async function verify(
  model: Model,
  options: VerifyOptions & {
    readonly delivered?: Delivered;
    readonly onProgress?: (progress: VerifyProgress) => void;
    readonly signal?: AbortSignal;
  },
): Promise<Verification> {
  const { onProgress, signal, delivered, ...rest } = options;
  return runJob<VerifyInput, VerifyProgress, Verification>(
    workerUrl(import.meta.url, 'verify-worker'),
    {
      model: writeModel(model),
      ...rest,
      ...(delivered && {
        delivered: {
          model: writeModel(delivered.model),
          groups: delivered.groups.map(({ key, removed }) => ({ key, removed })),
        },
      }),
    },
    { onEvent: onProgress, signal },
  );
}

export interface VerifyInput extends VerifyOptions {
  /** ONNX bytes. */
  readonly model: Uint8Array;
  readonly delivered?: { readonly model: Uint8Array; readonly groups: Delivered['groups'] };
}
