import type { Logger } from 'pino';
import { messageOf } from '../../base/errors.ts';
import type { ObjectStore } from '../../repository/s3/object-store.ts';
import type { SampleSpool } from './sample-spool.ts';

export interface ShipperOptions {
  readonly spool: SampleSpool;
  readonly store: ObjectStore;
  readonly logger: Logger;
  /** Between two looks at the spool. */
  readonly intervalMs?: number;
}

export const shipperDefaults = {
  intervalMs: 10_000,
  /** Waits double with each failure in a row, up to this. */
  maxWaitMs: 300_000,
} as const;

/**
 * Moves the files of a spool to a bucket, the oldest first, until it is stopped. While the bucket is away they stay in
 * the spool, within its limit; a file that was shipped twice, since its answer was lost, is the same object.
 */
export class SampleShipper {
  readonly #options: ShipperOptions;
  readonly #stopping = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #shipping: Promise<void> = Promise.resolve();
  #failures = 0;
  #shipped = 0;

  constructor(options: ShipperOptions) {
    this.#options = options;
    this.#wait();
  }

  /** Samples that have arrived. */
  get shipped(): number {
    return this.#shipped;
  }

  /** Whether the last try went well. */
  get isReachable(): boolean {
    return this.#failures === 0;
  }

  /** Ships all that is there now. Never rejects. */
  ship(): Promise<void> {
    this.#shipping = this.#shipping.then(() => this.#ship());
    return this.#shipping;
  }

  async stop(): Promise<void> {
    clearTimeout(this.#timer);
    this.#stopping.abort();
    await this.#shipping;
  }

  #wait(): void {
    const { intervalMs = shipperDefaults.intervalMs } = this.#options;
    const longestMs = Math.max(intervalMs, shipperDefaults.maxWaitMs);
    const waitMs = Math.min(intervalMs * 2 ** this.#failures, longestMs);
    this.#timer = setTimeout(() => {
      void this.ship().then(() => {
        if (!this.#stopping.signal.aborted) this.#wait();
      });
    }, waitMs).unref();
  }

  async #ship(): Promise<void> {
    const { spool, store, logger } = this.#options;
    const { signal } = this.#stopping;
    try {
      for (const { name, samples, bytes } of await spool.files()) {
        const file = await spool.read(name).catch(() => undefined);
        if (file === undefined) continue; // It was dropped meanwhile, or shipped by another server of this machine.
        await store.write(name, file, { signal });
        await spool.remove(name, bytes);
        this.#shipped += samples;
        if (this.#failures > 0) logger.info('samples are shipped again');
        this.#failures = 0;
      }
    } catch (thrown) {
      if (signal.aborted) return;
      if (this.#failures === 0)
        logger.warn(
          { reason: messageOf(thrown) },
          'samples cannot be shipped; they wait here, within their limit',
        );
      this.#failures++;
    }
  }
}
