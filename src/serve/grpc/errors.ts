import { BonsaiError, type ErrorCode } from '../../base/errors.ts';

/** The status codes of gRPC. Source: grpc/doc/statuscodes.md. */
export const STATUS = {
  OK: 0,
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  RESOURCE_EXHAUSTED: 8,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  UNAUTHENTICATED: 16,
} as const;

export type Status = (typeof STATUS)[keyof typeof STATUS];

/**
 * gRPC status of every error, as Triton's, which its clients know: what may succeed later is UNAVAILABLE, also a wait
 * that was too long (DEADLINE_EXCEEDED is the client's own deadline). A message over the limit is RESOURCE_EXHAUSTED,
 * as in every implementation of gRPC.
 */
export const STATUS_BY_CODE = {
  aborted: STATUS.UNAVAILABLE,
  already_running: STATUS.UNAVAILABLE,
  body_too_large: STATUS.RESOURCE_EXHAUSTED,
  cancelled: STATUS.CANCELLED,
  corrupt_checkpoint: STATUS.INTERNAL,
  corrupt_dataset: STATUS.INTERNAL,
  corrupt_model: STATUS.INVALID_ARGUMENT,
  corrupt_repository: STATUS.INVALID_ARGUMENT,
  deadline_exceeded: STATUS.UNAVAILABLE,
  empty_group: STATUS.INTERNAL,
  engine_failure: STATUS.INTERNAL,
  invalid_argument: STATUS.INVALID_ARGUMENT,
  invalid_config: STATUS.INVALID_ARGUMENT,
  invalid_graph: STATUS.INVALID_ARGUMENT,
  invalid_request: STATUS.INVALID_ARGUMENT,
  load_failed: STATUS.INVALID_ARGUMENT,
  missing_dataset: STATUS.INTERNAL,
  missing_file: STATUS.INTERNAL,
  missing_rule: STATUS.INTERNAL,
  model_not_found: STATUS.NOT_FOUND,
  not_in_repository: STATUS.INTERNAL,
  not_ready: STATUS.UNAVAILABLE,
  port_in_use: STATUS.INTERNAL,
  queue_full: STATUS.UNAVAILABLE,
  server_unreachable: STATUS.UNAVAILABLE,
  shape_mismatch: STATUS.INVALID_ARGUMENT,
  shutting_down: STATUS.UNAVAILABLE,
  store_conflict: STATUS.UNAVAILABLE,
  store_refused: STATUS.INTERNAL,
  store_unreachable: STATUS.UNAVAILABLE,
  training_diverged: STATUS.INTERNAL,
  unknown_policy: STATUS.INVALID_ARGUMENT,
  unsupported: STATUS.UNIMPLEMENTED,
  unsupported_media: STATUS.UNIMPLEMENTED,
  unwritable_path: STATUS.INTERNAL,
  version_not_found: STATUS.NOT_FOUND,
  worker_lost: STATUS.UNAVAILABLE,
} as const satisfies Record<ErrorCode, Status>;

/** An answer of the gRPC layer itself, where no domain error exists. */
export class GrpcError extends Error {
  readonly status: Status;

  constructor(status: Status, message: string) {
    super(message);
    this.status = status;
  }
}

/** Status and message for anything thrown. The message of an unexpected error stays in the log. */
export function statusOf(thrown: unknown): { readonly status: Status; readonly message: string } {
  if (thrown instanceof GrpcError) return { status: thrown.status, message: thrown.message };
  // A table of another version of the codes than the thrower's must still answer.
  if (thrown instanceof BonsaiError)
    return { status: STATUS_BY_CODE[thrown.code] ?? STATUS.INTERNAL, message: thrown.message };
  return { status: STATUS.INTERNAL, message: 'internal error; the log of the server says more' };
}

/** A message as the trailer `grpc-message` holds it: percent-encoded UTF-8. */
export function encodeStatusMessage(message: string): string {
  return message.replace(/[^ -$&-~]+/g, (text) =>
    [...Buffer.from(text)].map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`).join(''),
  );
}
