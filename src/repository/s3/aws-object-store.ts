import {
  CopyObjectCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { isAbsence, isUnchanged, storeErrorOf } from './aws-errors.ts';
import type { ListedObject, ObjectStore, OpenedObject } from './object-store.ts';
import { type S3Url, s3Text } from './s3-url.ts';

export const storeDefaults = {
  /** For a connection to a store that is far away. */
  connectMs: 5_000,
  /** Until an answer begins; a store that takes longer is as good as down. */
  answerMs: 20_000,
  /** The slowest line on which a network still goes up: 20 kB/s, or 160 kbit/s. */
  leastBytesPerMs: 20,
  /** Of the SDK, for answers that say "later". */
  attempts: 3,
  /** Where an endpoint is given, the region is a formality that signatures need. */
  region: 'us-east-1',
} as const;

export interface ObjectStoreOptions {
  readonly connectMs?: number;
  readonly answerMs?: number;
  readonly attempts?: number;
  /** By default those of the environment, a profile, or the machine: the SDK's usual chain. */
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
}

/** Opens a part of a bucket with the AWS SDK; nothing is sent before the first call. */
export function openObjectStore(url: S3Url, options: ObjectStoreOptions = {}): ObjectStore {
  const { bucket: Bucket, prefix, endpoint, profile } = url;
  const answerMs = options.answerMs ?? storeDefaults.answerMs;
  const region = url.region ?? (endpoint === undefined ? undefined : storeDefaults.region);
  const client = new S3Client({
    region,
    endpoint,
    profile,
    credentials: options.credentials,
    forcePathStyle: url.isPathStyle ?? endpoint !== undefined,
    maxAttempts: options.attempts ?? storeDefaults.attempts,
    // Many compatible stores do not know the newer checksums; digests are checked here anyway.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { connectionTimeout: options.connectMs ?? storeDefaults.connectMs },
  });

  /** Does one call within its time; what it throws is a `StoreError`. */
  async function call<T>(
    key: string,
    signal: AbortSignal | undefined,
    timeoutMs: number,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    signal?.throwIfAborted();
    const timeout = AbortSignal.timeout(timeoutMs);
    try {
      return await work(signal === undefined ? timeout : AbortSignal.any([signal, timeout]));
    } catch (thrown) {
      signal?.throwIfAborted();
      throw storeErrorOf(thrown, {
        what: s3Text(url, key),
        bucket: Bucket,
        endpoint,
        region,
        ...(timeout.aborted && { timedOutAfterMs: timeoutMs }),
      });
    }
  }

  async function page(
    input: { Prefix: string; Delimiter?: string; ContinuationToken?: string },
    s?: AbortSignal,
  ) {
    return call('', s, answerMs, (abortSignal) =>
      client.send(new ListObjectsV2Command({ Bucket, ...input }), { abortSignal }),
    );
  }

  /** Follows the pages of a listing to its end. */
  async function* pages(input: { Prefix: string; Delimiter?: string }, signal?: AbortSignal) {
    let token: string | undefined;
    do {
      const listed = await page({ ...input, ContinuationToken: token }, signal);
      yield listed;
      token = listed.IsTruncated ? listed.NextContinuationToken : undefined;
    } while (token !== undefined);
  }

  return {
    url,
    read: (key, { knownEtag, signal } = {}) =>
      call(key, signal, answerMs, async (abortSignal) => {
        try {
          const Key = prefix + key;
          const got = await client.send(new GetObjectCommand({ Bucket, Key, IfNoneMatch: knownEtag }), {
            abortSignal,
          });
          return { bytes: await got.Body!.transformToByteArray(), etag: got.ETag ?? '' };
        } catch (thrown) {
          if (isUnchanged(thrown)) return 'unchanged';
          if (isAbsence(thrown)) return undefined;
          throw thrown;
        }
      }),
    open: async (key, fromByte, signal) => {
      // The time is for the answer to begin: how long the bytes may take is for the caller to say.
      const body = new AbortController();
      const give = () => body.abort(signal.reason);
      signal.addEventListener('abort', give, { once: true });
      return call(key, signal, answerMs, async (timed): Promise<OpenedObject | undefined> => {
        const stop = () => body.abort(timed.reason);
        timed.addEventListener('abort', stop, { once: true });
        try {
          const Range = fromByte === 0 ? undefined : `bytes=${fromByte}-`;
          const got = await client.send(new GetObjectCommand({ Bucket, Key: prefix + key, Range }), {
            abortSignal: body.signal,
          });
          const range = /^bytes (\d+)-\d+\/(\d+)$/.exec(got.ContentRange ?? '');
          const startsAt = range === null ? 0 : Number(range[1]);
          return {
            chunks: got.Body as AsyncIterable<Uint8Array>, // In Node.js it is a readable stream.
            startsAt,
            sizeBytes: range === null ? got.ContentLength : Number(range[2]),
          };
        } catch (thrown) {
          if (isAbsence(thrown)) return undefined;
          throw thrown;
        } finally {
          timed.removeEventListener('abort', stop);
        }
      });
    },
    status: (key, signal) =>
      call(key, signal, answerMs, async (abortSignal) => {
        try {
          const got = await client.send(new HeadObjectCommand({ Bucket, Key: prefix + key }), {
            abortSignal,
          });
          return { sizeBytes: got.ContentLength ?? 0, etag: got.ETag ?? '' };
        } catch (thrown) {
          if (isAbsence(thrown)) return undefined;
          throw thrown;
        }
      }),
    write: (key, bytes, { condition, signal } = {}) =>
      call(
        key,
        signal,
        answerMs + Math.ceil(bytes.byteLength / storeDefaults.leastBytesPerMs),
        async (abortSignal) => {
          await client.send(
            new PutObjectCommand({
              Bucket,
              Key: prefix + key,
              Body: bytes,
              ...(condition === 'absent'
                ? { IfNoneMatch: '*' }
                : condition !== undefined && { IfMatch: condition.etag }),
            }),
            { abortSignal },
          );
        },
      ),
    copy: (from, to, signal) =>
      call(to, signal, answerMs, async (abortSignal) => {
        const CopySource = `${Bucket}/${prefix}${from}`;
        await client.send(new CopyObjectCommand({ Bucket, Key: prefix + to, CopySource }), { abortSignal });
      }),
    async list(under, signal) {
      const objects: ListedObject[] = [];
      for await (const { Contents = [] } of pages({ Prefix: prefix + under }, signal)) {
        for (const { Key = '', Size = 0, LastModified } of Contents)
          objects.push({
            key: Key.slice(prefix.length),
            sizeBytes: Size,
            writtenMs: LastModified?.getTime() ?? 0,
          });
      }
      return objects;
    },
    async listFolders(signal) {
      const names: string[] = [];
      for await (const { CommonPrefixes = [] } of pages({ Prefix: prefix, Delimiter: '/' }, signal))
        for (const { Prefix = '' } of CommonPrefixes) names.push(Prefix.slice(prefix.length, -1));
      return names.sort();
    },
    remove: (key, signal) =>
      call(key, signal, answerMs, async (abortSignal) => {
        await client.send(new DeleteObjectCommand({ Bucket, Key: prefix + key }), { abortSignal });
      }),
    close: () => client.destroy(),
  };
}
