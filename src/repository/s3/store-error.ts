import { BonsaiError, type ErrorCode } from '../../base/errors.ts';

/**
 * What is wrong between here and a store. `unreachable` may pass by itself; the others need somebody to do something.
 */
export type StoreProblem =
  | 'unreachable'
  | 'conflict'
  | 'credentials'
  | 'denied'
  | 'bucket_missing'
  | 'clock_skew'
  | 'wrong_region'
  | 'refused';

/** A call to an S3-compatible store that failed. */
export class StoreError extends BonsaiError {
  readonly problem: StoreProblem;

  constructor(problem: StoreProblem, message: string, options?: { cause?: unknown }) {
    super(CODE_OF[problem], message, options);
    this.problem = problem;
  }
}

const CODE_OF = {
  unreachable: 'store_unreachable',
  conflict: 'store_conflict',
  credentials: 'store_refused',
  denied: 'store_refused',
  bucket_missing: 'store_refused',
  clock_skew: 'store_refused',
  wrong_region: 'store_refused',
  refused: 'store_refused',
} as const satisfies Record<StoreProblem, ErrorCode>;
