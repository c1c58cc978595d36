import type { ControlEvent, Frame, Overview } from '../../src/serve/control/messages.ts';
import { getOverview, type Query } from './api.ts';
import { Feed } from './feed.ts';

/** Lines of the log that are kept. */
export const MAX_EVENTS = 4000;

export interface LogLine extends ControlEvent {
  readonly key: number;
}

/** All that is known of the server that is watched. */
export class Store extends Feed<Frame> {
  overview: Overview | undefined;
  log: LogLine[] = [];
  /** Of the server that is shown; undefined: its first. */
  server: string | undefined;
  protected readonly path = '';
  #nextKey = 0;

  /** Watches a server, from anew. */
  watch(server: string | undefined): void {
    this.server = server;
    this.overview = undefined;
    this.log = [];
    this.start();
  }

  protected query(): Query {
    return { server: this.server };
  }

  protected override async begin(signal: AbortSignal): Promise<void> {
    const overview = await getOverview(this.server, signal);
    this.overview = overview;
    document.title = `${overview.server} – Bonsai`;
    this.changed();
  }

  protected override noteHistory(frames: readonly Frame[], isOlder: boolean): void {
    if (!isOlder) {
      for (const frame of frames) this.#note(frame);
      return;
    }
    const lines = frames.flatMap(({ events = [] }) => events);
    const older = lines.map((event) => ({ ...event, key: this.#nextKey++ }));
    this.log = [...older, ...this.log].slice(-MAX_EVENTS);
  }

  protected override noteFrame(frame: Frame): void {
    if (frame.overview !== undefined) this.overview = frame.overview;
    this.#note(frame);
  }

  #note({ atMs, events = [] }: Frame): void {
    // A clock that was set back tells this time once more.
    while (this.log.length > 0 && this.log.at(-1)!.atMs > atMs) this.log.pop();
    const last = this.log.at(-1)?.atMs ?? 0;
    for (const event of events) {
      // After a reset the latest page comes once more.
      if (event.atMs < last) continue;
      this.log.push({ ...event, key: this.#nextKey++ });
    }
    if (this.log.length > MAX_EVENTS) this.log.splice(0, this.log.length - MAX_EVENTS);
  }
}
