import { FrameRing } from './frame-ring.ts';
import type { ControlEvent, Frame, Overview } from './messages.ts';

/** A frame without what the board adds. */
export type Look = Omit<Frame, 'seq' | 'events' | 'overview'>;

/** What a board needs to describe itself; the board adds the rest. */
export type Description = Omit<Overview, 'schemaVersion' | 'bootId' | 'servers' | 'server'>;

/** Events kept until the next frame; more than that a second are no news any more. */
export const MAX_EVENTS_PER_FRAME = 32;

/** What is known of one server over the last hour, for all who watch it. Bounded. */
export class Board {
  readonly server: string;
  readonly ring: FrameRing;
  readonly #describe: () => Description;
  readonly #followers = new Set<(seq: number, text: string) => void>();
  #events: ControlEvent[] = [];
  #described = '';

  constructor(options: {
    readonly server: string;
    readonly describe: () => Description;
    readonly ring?: FrameRing;
  }) {
    this.server = options.server;
    this.ring = options.ring ?? new FrameRing();
    this.#describe = options.describe;
    this.#described = JSON.stringify(this.#describe());
  }

  /** Tells an event with the next frame. */
  tell(event: ControlEvent): void {
    if (this.#events.length < MAX_EVENTS_PER_FRAME) this.#events.push(event);
  }

  push(look: Look, envelope: (description: Description) => Overview): void {
    const description = this.#describe();
    const text = JSON.stringify(description);
    const frame: Frame = {
      seq: this.ring.lastSeq + 1,
      ...look,
      ...(this.#events.length > 0 && { events: this.#events }),
      ...(text !== this.#described && { overview: envelope(description) }),
    };
    this.#described = text;
    this.#events = [];
    const written = JSON.stringify(frame);
    this.ring.push(written);
    for (const follow of this.#followers) follow(frame.seq, written);
  }

  describe(): Description {
    return this.#describe();
  }

  /** @returns ends it */
  follow(onFrame: (seq: number, text: string) => void): () => void {
    this.#followers.add(onFrame);
    return () => this.#followers.delete(onFrame);
  }
}
