import type { Channel, Follower } from './channel.ts';
import { FrameRing } from './frame-ring.ts';
import type { ControlEvent, Frame, Overview } from './messages.ts';

/** A frame without what the board adds. */
export type Look = Omit<Frame, 'seq' | 'events' | 'overview'>;

/** What a board needs to describe itself; the board adds the rest. */
export type Description = Omit<Overview, 'schemaVersion' | 'bootId' | 'servers' | 'server' | 'isFleet'>;

/** Events kept until the next frame; more than that a second are no news any more. */
export const MAX_EVENTS_PER_FRAME = 32;

/** What is known of one server over the last hour, for all who watch it. Bounded. */
export class Board implements Channel {
  readonly server: string;
  readonly ring: FrameRing;
  readonly #describe: () => Description;
  readonly #followers = new Set<Follower>();
  #description: Description;
  #events: ControlEvent[] = [];
  #described: string;

  constructor(options: {
    readonly server: string;
    /** Costs least where it returns the same object as long as nothing has changed. */
    readonly describe: () => Description;
    readonly ring?: FrameRing;
  }) {
    this.server = options.server;
    this.ring = options.ring ?? new FrameRing();
    this.#describe = options.describe;
    this.#description = this.#describe();
    this.#described = JSON.stringify(this.#description);
  }

  /** Tells an event with the next frame. */
  tell(event: ControlEvent): void {
    if (this.#events.length < MAX_EVENTS_PER_FRAME) this.#events.push(event);
  }

  push(look: Look, envelope: (description: Description) => Overview): void {
    const description = this.#describe();
    const text = description === this.#description ? this.#described : JSON.stringify(description);
    const frame: Frame = {
      seq: this.ring.lastSeq + 1,
      ...look,
      ...(this.#events.length > 0 && { events: this.#events }),
      ...(text !== this.#described && { overview: envelope(description) }),
    };
    this.#description = description;
    this.#described = text;
    this.#events = [];
    const written = JSON.stringify(frame);
    this.ring.push(written);
    for (const follower of this.#followers) follower.frame(frame.seq, written);
  }

  describe(): Description {
    return this.#describe();
  }

  follow(follower: Follower): () => void {
    this.#followers.add(follower);
    return () => this.#followers.delete(follower);
  }

  /** The server is not watched any more. */
  end(): void {
    for (const follower of this.#followers) follower.end();
  }
}
