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
    // Thousands a second may be refused; to look at the stack for each is a tenth of the work, and nobody reads it.
    const { stackTraceLimit } = Error;
    Error.stackTraceLimit = 0;
    super(code, message);
    Error.stackTraceLimit = stackTraceLimit;
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
    super(
      loading.length > 0 ? 'not_ready' : 'version_not_found',
      [`'${model}' has no available versions: ${why}`, ...failures].join('; '),
    );
  }
}

/** A version that could not be loaded; whatever served before still serves. */
export class LoadFailedError extends BonsaiError {
  constructor(task: string, reason: string, options?: { cause?: unknown }) {
    super('load_failed', `load failed for model '${task}': ${reason}`, options);
  }
}

/** A load of what the repository does not have. Wording and status (500, INTERNAL) are those that Triton's clients know. */
export class UnknownTaskError extends BonsaiError {
  constructor(task: string, cause: unknown) {
    super('not_in_repository', `failed to load '${task}', failed to poll from model repository`, { cause });
  }
}

/** The inference thread ended while it worked on a request. */
export class WorkerLostError extends BonsaiError {
  constructor(reason: string) {
    super('worker_lost', `The inference worker was lost (${reason}). The request may be sent again.`);
  }
}

/** So many refusals are told one by one; the rest is counted. */
export const MAX_REFUSALS_SHOWN = 20;

/** A repository of which nothing can be served. */
export class NothingServedError extends BonsaiError {
  /** @param refusals what was found, and why it cannot be served; a line each */
  constructor(repository: string, refusals: readonly string[]) {
    const shown = refusals.slice(0, MAX_REFUSALS_SHOWN);
    const rest = refusals.length - shown.length;
    super(
      'load_failed',
      `Nothing in ${repository} can be served${refusals.length === 0 ? ': it is empty.' : ':'}\n` +
        shown.map((line) => `  ${line}\n`).join('') +
        (rest > 0 ? `  and ${rest} more\n` : '') +
        `Check it with "bonsai repo verify ${repository}", or write a task: bonsai port MODEL.onnx --data … --out ${repository}`,
    );
  }
}
