import { RefusedError } from './errors.ts';

/** A client that was refused for want of memory tries again after this; bodies take some such time to be answered. */
export const BYTES_RETRY_MS = 1000;

/** Bounds the bytes of requests that are in the server at a time, over all protocols. */
export class ByteBudget {
  readonly #limit: number;
  #used = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get used(): number {
    return this.#used;
  }

  /**
   * Takes bytes until they are released. One request alone is always let in: its own size has limits elsewhere.
   * @returns gives them back; further calls do nothing
   * @throws RefusedError `queue_full`
   */
  reserve(bytes: number): () => void {
    if (this.#used > 0 && this.#used + bytes > this.#limit) {
      throw new RefusedError(
        'queue_full',
        `Refused: requests of ${this.#used} bytes are in the server already, and ${bytes} more exceed its limit of ${this.#limit}`,
        BYTES_RETRY_MS,
      );
    }
    this.#used += bytes;
    let isHeld = true;
    return () => {
      if (isHeld) this.#used -= bytes;
      isHeld = false;
    };
  }
}
