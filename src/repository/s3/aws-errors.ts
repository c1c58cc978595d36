import { BonsaiError, messageOf, systemCodeOf } from '../../base/errors.ts';
import { StoreError, type StoreProblem } from './store-error.ts';

/** What a failed call was about, for its message. */
export interface FailedCall {
  /** The object or place, such as `s3://bucket/key`. */
  readonly what: string;
  readonly bucket: string;
  /** Where the store is, as far as the URL says. */
  readonly endpoint: string | undefined;
  readonly region: string | undefined;
  /** Set if the call was ended here since it took so long. */
  readonly timedOutAfterMs?: number;
}

/** The parts of the SDK's errors that are looked at. */
interface ServiceFailure {
  readonly name: string;
  readonly status: number | undefined;
  readonly headers: Readonly<Record<string, string>>;
}

/** The names that stores give to a problem. https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html */
const PROBLEM_BY_NAME: Readonly<Record<string, StoreProblem>> = {
  CredentialsProviderError: 'credentials',
  TokenProviderError: 'credentials',
  InvalidAccessKeyId: 'credentials',
  SignatureDoesNotMatch: 'credentials',
  ExpiredToken: 'credentials',
  InvalidToken: 'credentials',
  TokenRefreshRequired: 'credentials',
  NoSuchBucket: 'bucket_missing',
  RequestTimeTooSkewed: 'clock_skew',
  RequestExpired: 'clock_skew',
  PermanentRedirect: 'wrong_region',
  TemporaryRedirect: 'wrong_region',
  AuthorizationHeaderMalformed: 'wrong_region',
  IllegalLocationConstraintException: 'wrong_region',
  NoSuchKey: 'conflict',
  PreconditionFailed: 'conflict',
  ConditionalRequestConflict: 'conflict',
  SlowDown: 'unreachable',
  RequestTimeout: 'unreachable',
  TimeoutError: 'unreachable',
};

/** Where no name is known: answers to HEAD have no body. */
const PROBLEM_BY_STATUS: Readonly<Record<number, StoreProblem>> = {
  301: 'wrong_region',
  307: 'wrong_region',
  401: 'credentials',
  403: 'denied',
  409: 'conflict',
  412: 'conflict',
  429: 'unreachable',
};

/** System codes of a store that is not there, or lets a connection go. */
const UNREACHABLE = /^(ECONN|EAI_|ENOTFOUND|EHOST|ENET|EPIPE|ETIMEDOUT|EPROTO|ERR_STREAM|UND_ERR)/;

/** What a thrown thing means. Errors of ours pass as they are. */
export function storeErrorOf(thrown: unknown, call: FailedCall): BonsaiError {
  if (thrown instanceof BonsaiError) return thrown;
  const failure = failureOf(thrown);
  const problem = problemOf(thrown, failure, call);
  return new StoreError(problem, messageFor(problem, failure, thrown, call), { cause: thrown });
}

/** Whether the store says that there is no such object; a missing bucket is something else. */
export function isAbsence(thrown: unknown): boolean {
  const { name, status } = failureOf(thrown);
  return name === 'NoSuchKey' || name === 'NotFound' || (status === 404 && name !== 'NoSuchBucket');
}

/** Whether the store says that the object has not changed. */
export function isUnchanged(thrown: unknown): boolean {
  return failureOf(thrown).status === 304;
}

function problemOf(thrown: unknown, { name, status }: ServiceFailure, call: FailedCall): StoreProblem {
  if (call.timedOutAfterMs !== undefined) return 'unreachable';
  const named = PROBLEM_BY_NAME[name];
  if (named !== undefined) return named;
  if (/region is missing/i.test(messageOf(thrown))) return 'wrong_region';
  if (/credential/i.test(name) || /could not load credentials/i.test(messageOf(thrown))) return 'credentials';
  if (status !== undefined && status >= 500) return 'unreachable';
  const byStatus = status === undefined ? undefined : PROBLEM_BY_STATUS[status];
  if (byStatus !== undefined) return byStatus;
  const code = systemCodeOf(thrown) ?? name;
  if (status === undefined || status < 300 || UNREACHABLE.test(code)) return 'unreachable';
  return 'refused';
}

function messageFor(
  problem: StoreProblem,
  { name, status, headers }: ServiceFailure,
  thrown: unknown,
  { what, bucket, endpoint, region, timedOutAfterMs }: FailedCall,
): string {
  const where = endpoint === undefined ? 'the store' : `the store at ${endpoint}`;
  const said = `${name}${status === undefined ? '' : ` ${status}`}: ${messageOf(thrown)}`;
  switch (problem) {
    case 'unreachable':
      return timedOutAfterMs === undefined
        ? `${what}: ${where} cannot be reached or fails (${said}). It is tried again where that makes sense; check endpoint and network.`
        : `${what}: ${where} gave no answer within ${timedOutAfterMs / 1000} s. Check endpoint and network.`;
    case 'conflict':
      return `${what}: somebody else wrote it meanwhile (${said}).`;
    case 'credentials':
      return `${what}: ${where} wants valid credentials (${said}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile (?profile=NAME), and check that they have not expired.`;
    case 'denied':
      return `${what}: access is denied (${said}). These credentials need s3:ListBucket, s3:GetObject and, to publish, s3:PutObject and s3:DeleteObject there.`;
    case 'bucket_missing':
      return `${what}: there is no bucket "${bucket}" at ${where} (${said}). Make it, or check its name, the endpoint and the region.`;
    case 'clock_skew':
      return `${what}: this machine's clock and that of ${where} differ too much (${said})${headers.date === undefined ? '' : `; the store's says ${headers.date}`}. Set this machine's clock (NTP).`;
    case 'wrong_region': {
      const right = headers['x-amz-bucket-region'] ?? /expecting '([\w-]+)'/.exec(messageOf(thrown))?.[1];
      return `${what}: the region ${region ?? '(none is set)'} is not that of the bucket${right === undefined ? '' : `, which is in ${right}`} (${said}). Name it: s3://${bucket}/…?region=${right ?? 'NAME'}, or AWS_REGION.`;
    }
    case 'refused':
      return `${what}: ${where} refused the request (${said}).`;
    default:
      return problem satisfies never;
  }
}

function failureOf(thrown: unknown): ServiceFailure {
  // The SDK's errors carry these beside the message; anything else has none of them.
  const { name, $metadata, $response } = (thrown ?? {}) as {
    name?: unknown;
    $metadata?: { httpStatusCode?: number };
    $response?: { headers?: Record<string, string> };
  };
  return {
    name: typeof name === 'string' ? name : 'Error',
    status: $metadata?.httpStatusCode,
    headers: $response?.headers ?? {},
  };
}
