import type { FleetDecision, FleetRecord } from '../../src/orchestrate/fleet/record.ts';
import type { FleetFrame, FleetOverview } from '../../src/serve/control/messages.ts';
import { getFleet, type Query } from './api.ts';
import { Feed } from './feed.ts';
import { MAX_EVENTS } from './store.ts';

export type Fleet = FleetOverview<FleetRecord>;

export interface FleetLine extends FleetDecision {
  readonly key: number;
}

/** All that is known of a fleet. */
export class FleetStore extends Feed<FleetFrame> {
  fleet: Fleet | undefined;
  /** Ascending in time. */
  log: FleetLine[] = [];
  protected readonly path = 'fleet/';
  readonly #known = new Set<string>();
  #nextKey = 0;

  /** Watches it, from anew; what was decided before stays. */
  watch(): void {
    this.start();
  }

  override get now(): number {
    // Of large fleets a frame comes only every few seconds.
    const savedMs = this.fleet?.state?.savedMs;
    if (savedMs === undefined) return super.now;
    return this.frames.length === 0 ? savedMs : Math.max(super.now, savedMs);
  }

  protected query(): Query {
    return {};
  }

  protected override async begin(signal: AbortSignal): Promise<void> {
    this.#adopt(await getFleet(signal));
    document.title = 'Fleet – Bonsai';
  }

  protected override noteEvent(name: string, data: string): void {
    if (name === 'fleet') this.#adopt(JSON.parse(data) as Fleet); // Written by our own server.
  }

  #adopt(fleet: Fleet): void {
    this.fleet = fleet;
    for (const decision of fleet.state?.decisions ?? []) {
      const identity = `${decision.atMs} ${decision.text}`;
      if (this.#known.has(identity)) continue;
      this.#known.add(identity);
      this.log.push({ ...decision, key: this.#nextKey++ });
    }
    while (this.log.length > MAX_EVENTS) {
      const { atMs, text } = this.log.shift()!;
      this.#known.delete(`${atMs} ${text}`);
    }
  }
}
