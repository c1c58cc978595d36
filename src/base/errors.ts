/**
 * Every code that a Bonsai error may carry. A caller branches on the code, a person reads the message;
 * borders (`serve/rest/errors.ts`, `cli/`) map codes to statuses and exit codes in exhaustive tables.
 */
export const ERROR_CODES = [
  'aborted',
  'already_running',
  'body_too_large',
  'cancelled',
  'corrupt_checkpoint',
  'corrupt_dataset',
  'corrupt_model',
  'corrupt_repository',
  'deadline_exceeded',
  'empty_group',
  'engine_failure',
  'invalid_argument',
  'invalid_config',
  'invalid_graph',
  'invalid_request',
  'load_failed',
  'missing_dataset',
  'missing_file',
  'missing_rule',
  'model_not_found',
  'not_in_repository',
  'not_ready',
  'port_in_use',
  'queue_full',
  'server_unreachable',
  'shape_mismatch',
  'shutting_down',
  'store_conflict',
  'store_refused',
  'store_unreachable',
  'training_diverged',
  'unknown_policy',
  'unsupported',
  'unsupported_media',
  'unwritable_path',
  'version_not_found',
  'worker_lost',
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

/**
 * The base of all errors that Bonsai throws on purpose. The message says what was received, what was
 * expected and what to do next; subclasses exist where a caller may want to handle one thing by type.
 */
export class BonsaiError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }

  override toString(): string {
    return `[${this.code}] ${this.message}`;
  }
}

/** A value of the caller's (flag, option, argument) that cannot be used. */
export class InvalidArgumentError extends BonsaiError {
  constructor(message: string, options?: { cause?: unknown }) {
    super('invalid_argument', message, options);
  }
}

/** The message of anything thrown, for logs and for wrapping. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** The `code` of a Node.js system error (`ENOENT`, `EADDRINUSE`, …), or undefined. */
export function systemCodeOf(thrown: unknown): string | undefined {
  if (typeof thrown !== 'object' || thrown === null || !('code' in thrown)) return undefined;
  return typeof thrown.code === 'string' ? thrown.code : undefined;
}

/** The path that a Node.js system error is about, or undefined. */
export function systemPathOf(thrown: unknown): string | undefined {
  if (typeof thrown !== 'object' || thrown === null || !('path' in thrown)) return undefined;
  return typeof thrown.path === 'string' ? thrown.path : undefined;
}

/** The system's sentence without the call and the files that only the caller knows: "EROFS: read-only file system". */
export function systemReason(thrown: unknown): string {
  const message = messageOf(thrown);
  return systemCodeOf(thrown) === undefined ? message : message.replace(/, \w+( '.*)?$/s, '');
}
