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
    const holding = new Holding(this);
    holding.add(bytes);
    return () => holding.release();
  }

  /** @param own what the request has already @throws RefusedError if so many more are too many */
  check(bytes: number, own: number): void {
    if (this.#used === own || this.#used + bytes <= this.#limit) return;
    throw new RefusedError(
      'queue_full',
      `Refused: requests of ${this.#used} bytes are in the server already, and ${bytes} more exceed its limit of ${this.#limit}`,
      BYTES_RETRY_MS,
    );
  }

  /** Counts bytes that came (or, below 0, that went). */
  count(bytes: number): void {
    this.#used += bytes;
  }
}

/** The bytes that one request has in the server, which grow as they come and are given back together. */
export class Holding {
  readonly #budget: ByteBudget;
  #bytes = 0;

  constructor(budget: ByteBudget) {
    this.#budget = budget;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Asks whether so many would find room, and takes none of it: what was only announced may never come.
   * @throws RefusedError
   */
  expect(bytes: number): void {
    this.#budget.check(bytes, this.#bytes);
  }

  /** @throws RefusedError if the server has no room for so many more */
  add(bytes: number): void {
    if (bytes <= 0) return;
    this.expect(bytes);
    this.#bytes += bytes;
    this.#budget.count(bytes);
  }

  release(): void {
    this.#budget.count(-this.#bytes);
    this.#bytes = 0;
  }
}
