import { BonsaiError } from '../base/errors.ts';

/** A request that does not fit the protocol or the model. */
export class InvalidRequestError extends BonsaiError {
  constructor(message: string, options?: { cause?: unknown }) {
    super('invalid_request', message, options);
  }
}

/** A refusal because of load. Trying again after `retryAfterMs` may succeed. */
export class RefusedError extends BonsaiError {
  readonly retryAfterMs: number;

  constructor(code: 'queue_full' | 'deadline_exceeded', message: string, retryAfterMs: number) {
    super(code, message);
    this.retryAfterMs = retryAfterMs;
  }
}

/** A version that exists but cannot answer now. */
export class NotReadyError extends BonsaiError {
  constructor(message: string) {
    super('not_ready', message);
  }
}

/** A request that names no version of a model of which none is loaded. The first half of the text is Triton's. */
export class NotLoadedError extends BonsaiError {
  /**
   * @param loading versions under way
   * @param failures why others are not there, a sentence each
   */
  constructor(model: string, loading: readonly number[], failures: readonly string[]) {
    const why =
      loading.length > 0
        ? `version ${loading.join(', ')} is loading; try again in a moment`
        : `it is not loaded. Load it through the model repository extension: POST /v2/repository/models/${encodeURIComponent(model)}/load`;
    super('version_not_found', [`'${model}' has no available versions: ${why}`, ...failures].join('; '));
  }
}

/** A version that could not be loaded; whatever served before still serves. */
export class LoadFailedError extends BonsaiError {
  constructor(task: string, reason: string, options?: { cause?: unknown }) {
    super('load_failed', `load failed for model '${task}': ${reason}`, options);
  }
}

/** The inference thread ended while it worked on a request. */
export class WorkerLostError extends BonsaiError {
  constructor(reason: string) {
    super('worker_lost', `The inference worker was lost (${reason}). The request may be sent again.`);
  }
}
