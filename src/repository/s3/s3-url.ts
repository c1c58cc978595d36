import { InvalidArgumentError } from '../../base/errors.ts';

/** A place in a bucket of an S3-compatible store, and how the store is reached. */
export interface S3Url {
  readonly bucket: string;
  /** What every key begins with: empty, or ending in a slash. */
  readonly prefix: string;
  /** Of a store that is not Amazon's, such as `http://127.0.0.1:9000`. Undefined: the environment says, or Amazon's. */
  readonly endpoint?: string;
  /** Undefined: the environment or the profile says. */
  readonly region?: string;
  /** Whether the bucket stands in the path and not in the name of the host. Undefined: where there is an endpoint. */
  readonly isPathStyle?: boolean;
  /** The profile of the credentials file. */
  readonly profile?: string;
}

const SCHEME = 's3://';
/** What buckets may be called: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html. */
const BUCKET = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;
/** Keys that need no escaping anywhere. */
const PREFIX = /^[A-Za-z0-9!_.*'()/-]*$/;
const OPTIONS = ['endpoint', 'region', 'path-style', 'profile'];
const EXAMPLES =
  's3://bucket/models, s3://bucket/models?endpoint=http://host:9000&region=eu-west-1 or, as Triton has it, s3://http://host:9000/bucket/models';

/** Whether the text means a place in a bucket, and not a folder. */
export function isS3Url(text: string): boolean {
  return text.startsWith(SCHEME);
}

/**
 * `s3://BUCKET/PREFIX?endpoint=URL&region=NAME&path-style=true&profile=NAME`, or Triton's `s3://http://HOST:PORT/BUCKET/PREFIX`.
 * @throws InvalidArgumentError naming the part that cannot be used
 */
export function parseS3Url(text: string): S3Url {
  const fail = (problem: string) =>
    new InvalidArgumentError(`"${text}" ${problem}. Expected something like ${EXAMPLES}.`);
  if (!isS3Url(text)) throw fail(`does not begin with ${SCHEME}`);
  const [path = '', query = '', ...more] = text.slice(SCHEME.length).split('?');
  if (more.length > 0) throw fail('has more than one "?"');
  const options = new URLSearchParams(query);
  for (const name of options.keys())
    if (!OPTIONS.includes(name)) throw fail(`has an option "${name}"; there are ${OPTIONS.join(', ')}`);
  const inPath = /^(https?:\/\/[^/]+)\/(.*)$/.exec(path);
  const endpoint = inPath?.[1] ?? options.get('endpoint') ?? undefined;
  if (endpoint !== undefined && !isHttpUrl(endpoint))
    throw fail(`has the endpoint "${endpoint}", which is no address of HTTP`);
  const [bucket = '', ...folders] = (inPath?.[2] ?? path).split('/');
  if (!BUCKET.test(bucket)) throw fail(`names the bucket "${bucket}", which none can be called`);
  const parts = folders.filter((part) => part !== '');
  const prefix = parts.map((part) => `${part}/`).join('');
  if (!PREFIX.test(prefix) || parts.some((part) => part === '.' || part === '..'))
    throw fail('has a prefix with characters that need escaping');
  const style = options.get('path-style');
  if (style !== null && style !== 'true' && style !== 'false')
    throw fail(`has path-style=${style}; it is true or false`);
  return {
    bucket,
    prefix,
    endpoint,
    region: options.get('region') ?? undefined,
    isPathStyle: style === null ? undefined : style === 'true',
    profile: options.get('profile') ?? undefined,
  };
}

/** For people: the bucket and what is in it, without how it is reached. */
export function s3Text({ bucket, prefix }: S3Url, key = ''): string {
  return `${SCHEME}${bucket}/${prefix}${key}`.replace(/\/$/, '');
}

function isHttpUrl(text: string): boolean {
  try {
    return /^https?:$/.test(new URL(text).protocol);
  } catch {
    return false;
  }
}
