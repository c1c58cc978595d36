import { BonsaiError, type ErrorCode } from '../../base/errors.ts';

/**
 * HTTP status of every error. As Triton's (`HttpCodeFromError`), which its clients know: what the caller got wrong is
 * 400, what is not there 404, what may succeed later 503, what is not offered 501. Unlike Triton's, malformed JSON is
 * 400 and not 500, and a body over the limit is 413 (RFC 9110, section 15.5.14) and not 400: proxies and clients tell it
 * from a malformed request by the status.
 */
export const STATUS_BY_CODE = {
  aborted: 503,
  already_running: 503,
  body_too_large: 413,
  cancelled: 400,
  corrupt_checkpoint: 500,
  corrupt_dataset: 500,
  corrupt_model: 400,
  corrupt_repository: 400,
  deadline_exceeded: 503,
  empty_group: 500,
  engine_failure: 500,
  invalid_argument: 400,
  invalid_config: 400,
  invalid_graph: 400,
  invalid_request: 400,
  load_failed: 400,
  missing_dataset: 500,
  missing_file: 500,
  missing_rule: 500,
  model_not_found: 404,
  not_in_repository: 500,
  not_ready: 503,
  port_in_use: 500,
  queue_full: 503,
  server_unreachable: 503,
  shape_mismatch: 400,
  shutting_down: 503,
  store_conflict: 503,
  store_refused: 500,
  store_unreachable: 503,
  training_diverged: 500,
  unknown_policy: 400,
  unsupported: 501,
  unsupported_media: 501,
  unwritable_path: 500,
  version_not_found: 404,
  worker_lost: 503,
} as const satisfies Record<ErrorCode, number>;

/** An answer of the HTTP layer itself, where no domain error exists. */
export class HttpError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** A route that exists, but not for this method. */
export class MethodNotAllowedError extends HttpError {
  /** As the header Allow has them. */
  readonly allowed: string;

  constructor(allowed: readonly string[]) {
    super(405, 'Method Not Allowed');
    this.allowed = allowed.join(', ');
  }
}

/** Status and message for anything thrown. The message of an unexpected error stays in the log. */
export function statusOf(thrown: unknown): { readonly status: number; readonly message: string } {
  if (thrown instanceof HttpError) return { status: thrown.status, message: thrown.message };
  // A table of another version of the codes than the thrower's must still answer.
  if (thrown instanceof BonsaiError)
    return { status: STATUS_BY_CODE[thrown.code] ?? 500, message: thrown.message };
  return { status: 500, message: 'internal error; the log of the server says more' };
}
