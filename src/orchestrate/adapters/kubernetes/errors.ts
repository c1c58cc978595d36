import { BonsaiError, type ErrorCode } from '../../../base/errors.ts';

/** What the API server refused. */
export class KubernetesError extends BonsaiError {
  /** Of HTTP. */
  readonly status: number;
  /** One word, as in a Status object: NotFound, AlreadyExists, Conflict, Expired, Forbidden, Invalid, … */
  readonly reason: string;
  /** When to ask again, if it said so. */
  readonly retryAfterMs: number | undefined;

  constructor(
    what: string,
    answer: {
      readonly status: number;
      readonly reason: string;
      readonly message: string;
      readonly retryAfterMs?: number;
    },
  ) {
    const { status, reason, message, retryAfterMs } = answer;
    super(codeOf(status), `${what} was refused with ${status} ${reason}: ${message}${adviceOn(status)}`);
    this.status = status;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }
}

function codeOf(status: number): ErrorCode {
  if (status === 401 || status === 403) return 'invalid_config';
  return status === 429 || status >= 500 ? 'server_unreachable' : 'invalid_request';
}

function adviceOn(status: number): string {
  if (status === 401)
    return '. Give credentials that are valid (kubeconfig, or the token of a service account).';
  if (status === 403) return '. Give its account the rights of deploy/kubernetes/controller.yaml.';
  return '';
}

export function isStatus(error: unknown, ...statuses: readonly number[]): error is KubernetesError {
  return error instanceof KubernetesError && statuses.includes(error.status);
}
