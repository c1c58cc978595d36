import type { FrameRing } from './frame-ring.ts';

/** Something that tells frames, one after another, to all who follow it. */
export interface Channel {
  readonly ring: FrameRing;
  /** @returns ends it */
  follow(follower: Follower): () => void;
}

export interface Follower {
  frame(seq: number, text: string): void;
  /** What is not kept: whoever missed it gets the next. */
  event(name: string, text: string): void;
  /** There is nothing to follow any more. */
  end(): void;
}
