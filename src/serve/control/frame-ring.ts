/** An hour at one frame a second. */
export const MAX_FRAMES = 3600;

/** Bounds the hour of a server of many tasks; three tasks take some 3 MB. */
export const MAX_FRAME_BYTES = 16 * 1024 * 1024;

/** The latest frames as JSON texts, which are written once and sent to everybody. Numbered from 1. */
export class FrameRing {
  readonly #maxFrames: number;
  #maxBytes: number;
  #texts: (string | undefined)[] = [];
  /** Index of the oldest one in `#texts`; what lies before has been let go. */
  #start = 0;
  #lastSeq = 0;
  #bytes = 0;

  constructor(maxFrames: number = MAX_FRAMES, maxBytes: number = MAX_FRAME_BYTES) {
    this.#maxFrames = maxFrames;
    this.#maxBytes = maxBytes;
  }

  /** Of the newest frame; 0: there is none. */
  get lastSeq(): number {
    return this.#lastSeq;
  }

  /** Of the oldest frame that is kept; `lastSeq` + 1: there is none. */
  get firstSeq(): number {
    return this.#lastSeq - (this.#texts.length - this.#start) + 1;
  }

  /** @param text of the frame with the number `lastSeq` + 1 */
  push(text: string): void {
    this.#texts.push(text);
    this.#lastSeq++;
    this.#bytes += text.length;
    const isOver = () => this.#texts.length - this.#start > this.#maxFrames || this.#bytes > this.#maxBytes;
    while (isOver() && this.#start < this.#texts.length - 1) {
      this.#bytes -= this.#texts[this.#start]!.length;
      this.#texts[this.#start++] = undefined;
    }
    if (this.#start > this.#maxFrames) {
      this.#texts = this.#texts.slice(this.#start);
      this.#start = 0;
    }
  }

  /** Another limit from now on; the oldest ones go with the next frame. */
  limit(maxBytes: number): void {
    this.#maxBytes = maxBytes;
  }

  /** The frames from `fromSeq` on and before `beforeSeq`, as far as they are kept. */
  between(fromSeq: number, beforeSeq: number): string[] {
    const offset = this.#start - this.firstSeq;
    const from = Math.max(this.firstSeq, fromSeq);
    const to = Math.min(this.#lastSeq + 1, beforeSeq);
    return from >= to ? [] : (this.#texts.slice(from + offset, to + offset) as string[]); // Those kept are texts.
  }
}
