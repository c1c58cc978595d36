import type { Channel, Follower } from './channel.ts';
import { FrameRing } from './frame-ring.ts';
import type { FleetFrame, FleetOverview } from './messages.ts';

/** What a fleet's board is told; the control server adds the rest. */
export type FleetDescription = Omit<FleetOverview<unknown>, 'schemaVersion' | 'bootId' | 'overrides'>;

/** What is known of a fleet over the last hour, for all who watch it. Bounded. */
export class FleetBoard implements Channel {
  readonly ring: FrameRing;
  readonly #describe: () => FleetDescription;
  readonly #followers = new Set<Follower>();

  constructor(options: { readonly describe: () => FleetDescription; readonly ring?: FrameRing }) {
    this.#describe = options.describe;
    this.ring = options.ring ?? new FrameRing();
  }

  describe(): FleetDescription {
    return this.#describe();
  }

  /** Keeps a frame and tells it. */
  push(look: Omit<FleetFrame, 'seq'>): void {
    const frame: FleetFrame = { seq: this.ring.lastSeq + 1, ...look };
    const written = JSON.stringify(frame);
    this.ring.push(written);
    for (const follower of this.#followers) follower.frame(frame.seq, written);
  }

  /** Tells how the fleet is now; written only if somebody follows. */
  announce(write: () => string): void {
    if (this.#followers.size === 0) return;
    const text = write();
    for (const follower of this.#followers) follower.event('fleet', text);
  }

  follow(follower: Follower): () => void {
    this.#followers.add(follower);
    return () => this.#followers.delete(follower);
  }
}
