import type { S3Url } from './s3-url.ts';

/** An object read as a whole. */
export interface ReadObject {
  readonly bytes: Uint8Array;
  /** Changes whenever the object does. */
  readonly etag: string;
}

/** An object, or the rest of it, as it comes in. */
export interface OpenedObject {
  readonly chunks: AsyncIterable<Uint8Array>;
  /** The byte of the object that comes first; 0 if the store did not heed the one that was asked for. */
  readonly startsAt: number;
  /** Of the whole object, where the store says so. */
  readonly sizeBytes: number | undefined;
}

export interface ObjectStatus {
  readonly sizeBytes: number;
  readonly etag: string;
}

export interface ListedObject {
  readonly key: string;
  readonly sizeBytes: number;
  /** When it was written, by the store's clock; milliseconds since the Unix epoch. */
  readonly writtenMs: number;
}

/** What must hold for a write to happen: that there is no such object, or that it still is the one of that ETag. */
export type WriteCondition = 'absent' | { readonly etag: string };

/**
 * A part of a bucket. Keys are relative to the URL's prefix. Every call ends within a time of its own, and throws a
 * `StoreError` that says what is wrong and what to do.
 */
export interface ObjectStore {
  readonly url: S3Url;
  /** The object; `unchanged` if it still has the ETag; undefined if there is none. */
  read(
    key: string,
    options?: { readonly knownEtag?: string; readonly signal?: AbortSignal },
  ): Promise<ReadObject | 'unchanged' | undefined>;
  /** Begins to read from a byte on; undefined if there is no such object. The caller reads the chunks or aborts. */
  open(key: string, fromByte: number, signal: AbortSignal): Promise<OpenedObject | undefined>;
  status(key: string, signal?: AbortSignal): Promise<ObjectStatus | undefined>;
  /**
   * Writes a whole object. Stores that know no conditions ignore them (`hasConditionalWrites` finds out).
   * @throws StoreError `conflict` if the condition does not hold
   */
  write(
    key: string,
    bytes: Uint8Array,
    options?: { readonly condition?: WriteCondition; readonly signal?: AbortSignal },
  ): Promise<void>;
  /** Copies within the store, without moving bytes through this machine. */
  copy(from: string, to: string, signal?: AbortSignal): Promise<void>;
  /** All objects whose key begins so. */
  list(prefix: string, signal?: AbortSignal): Promise<ListedObject[]>;
  /** The names of the "folders" right below the URL's prefix. */
  listFolders(signal?: AbortSignal): Promise<string[]>;
  remove(key: string, signal?: AbortSignal): Promise<void>;
  /** Lets connections go. */
  close(): void;
}
