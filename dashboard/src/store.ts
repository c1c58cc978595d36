import type { ControlEvent, Frame, Overview } from '../../src/serve/control/messages.ts';
import { ApiError, followEvents, getHistory, getOverview } from './api.ts';

/** An hour at a frame a second, as the server keeps it. */
export const MAX_FRAMES = 3600;

/** Lines of the log that are kept. */
export const MAX_EVENTS = 4000;

/** Waits between tries to reach a server that is gone; the last one for ever. */
const RETRY_MS = [500, 1_000, 2_000, 5_000];

/** Pause between pages of history, so that fetching an hour is not felt by anybody. */
const BACKFILL_PAUSE_MS = 150;

export type Connection = 'connecting' | 'live' | 'lost' | 'locked' | 'refused';

export interface LogLine extends ControlEvent {
  readonly key: number;
}

/** All that is known of the server that is watched. */
export class Store {
  overview: Overview | undefined;
  /** Ascending in time. */
  frames: Frame[] = [];
  log: LogLine[] = [];
  connection: Connection = 'connecting';
  /** Why nothing comes, where the server says. */
  problem = '';
  /** Of the server that is shown; undefined: its first. */
  server: string | undefined;
  readonly #listeners = new Set<() => void>();
  #lastId: string | undefined;
  #oldestSeq = Number.POSITIVE_INFINITY;
  #firstSeq = 0;
  #wantedFromMs = 0;
  #isBackfilling = false;
  #stop = new AbortController();
  #wake: (() => void) | undefined;
  #nextKey = 0;
  #isPending = false;

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get now(): number {
    return this.frames.at(-1)?.atMs ?? 0;
  }

  /** Watches a server, from anew. */
  watch(server: string | undefined): void {
    this.#stop.abort();
    this.#stop = new AbortController();
    this.server = server;
    this.overview = undefined;
    this.frames = [];
    this.log = [];
    this.#lastId = undefined;
    this.#setConnection('connecting');
    void this.#run(this.#stop.signal);
  }

  /** A token was given, or somebody does not want to wait. */
  retry(): void {
    this.#wake?.();
  }

  /** Sees to it that the past from there on is there, as far as the server has it. */
  want(fromMs: number): void {
    this.#wantedFromMs = fromMs;
    void this.#backfill();
  }

  async #run(signal: AbortSignal): Promise<void> {
    let failures = 0;
    while (!signal.aborted) {
      try {
        if (this.#lastId === undefined) await this.#begin(signal);
        let mustBegin = false;
        const attempt = new AbortController();
        await followEvents(
          this.server,
          this.#lastId,
          {
            onOpen: () => {
              failures = 0;
              this.#setConnection('live');
            },
            onFrame: (frame, id) => {
              this.#lastId = id;
              this.#add(frame);
            },
            onReset: () => {
              mustBegin = true;
              attempt.abort();
            },
          },
          AbortSignal.any([signal, attempt.signal]),
        ).catch((thrown: unknown) => {
          if (!mustBegin) throw thrown;
        });
        if (mustBegin) {
          this.#lastId = undefined;
          continue;
        }
        throw new Error('The server has closed the connection.');
      } catch (thrown) {
        if (signal.aborted) return;
        const status = thrown instanceof ApiError ? thrown.status : 0;
        this.problem = thrown instanceof ApiError ? thrown.message : '';
        this.#setConnection(status === 401 ? 'locked' : status >= 400 && status < 500 ? 'refused' : 'lost');
        const waitMs = status === 401 ? 60_000 : RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]!;
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, waitMs);
          this.#wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
    }
  }

  /** Overview and the latest page of history. Frames of an earlier run of the server stay. */
  async #begin(signal: AbortSignal): Promise<void> {
    const overview = await getOverview(this.server, signal);
    const page = await getHistory(this.server, undefined, signal);
    const known = page.frames[0]?.atMs ?? Number.POSITIVE_INFINITY;
    this.overview = overview;
    document.title = `${overview.server} – Bonsai`;
    this.frames = [...this.frames.filter(({ atMs }) => atMs < known), ...page.frames].slice(-MAX_FRAMES);
    for (const frame of page.frames) this.#note(frame);
    this.#oldestSeq = page.frames[0]?.seq ?? Number.POSITIVE_INFINITY;
    this.#firstSeq = page.firstSeq;
    this.#lastId = `${page.bootId}-${page.frames.at(-1)?.seq ?? 0}`;
    this.#changed();
    void this.#backfill();
  }

  #add(frame: Frame): void {
    this.frames.push(frame);
    if (this.frames.length > MAX_FRAMES) this.frames.splice(0, this.frames.length - MAX_FRAMES);
    if (frame.overview !== undefined) this.overview = frame.overview;
    this.#note(frame);
    this.#changed();
  }

  #note({ events = [] }: Frame): void {
    const last = this.log.at(-1)?.atMs ?? 0;
    for (const event of events) {
      // After a reset the latest page comes once more.
      if (event.atMs < last) continue;
      this.log.push({ ...event, key: this.#nextKey++ });
    }
    if (this.log.length > MAX_EVENTS) this.log.splice(0, this.log.length - MAX_EVENTS);
  }

  async #backfill(): Promise<void> {
    if (this.#isBackfilling) return;
    this.#isBackfilling = true;
    const { signal } = this.#stop;
    try {
      while (
        !signal.aborted &&
        this.#oldestSeq > this.#firstSeq &&
        Number.isFinite(this.#oldestSeq) &&
        this.frames.length < MAX_FRAMES &&
        this.frames[0]!.atMs > this.#wantedFromMs
      ) {
        const page = await getHistory(this.server, this.#oldestSeq, signal);
        if (signal.aborted || page.frames.length === 0) break;
        const oldest = page.frames[0]!;
        const own = this.frames.findIndex(({ atMs }) => atMs > page.frames.at(-1)!.atMs);
        this.frames.splice(own < 0 ? this.frames.length : own, 0, ...page.frames);
        this.#oldestSeq = oldest.seq;
        this.#firstSeq = page.firstSeq;
        const lines = page.frames.flatMap(({ events = [] }) => events);
        const older = lines.map((event) => ({ ...event, key: this.#nextKey++ }));
        this.log = [...older, ...this.log].slice(-MAX_EVENTS);
        this.#changed();
        await new Promise((resolve) => setTimeout(resolve, BACKFILL_PAUSE_MS));
      }
    } catch {
      // The stream notices, too, and says so.
    } finally {
      this.#isBackfilling = false;
    }
  }

  #setConnection(connection: Connection): void {
    if (connection === 'live') this.problem = '';
    this.connection = connection;
    this.#changed();
  }

  /** At most once a frame of the screen, however many frames come at once. */
  #changed(): void {
    if (this.#isPending) return;
    this.#isPending = true;
    // A hidden tab draws nothing, and is told when it is seen again.
    requestAnimationFrame(() => {
      this.#isPending = false;
      for (const listener of this.#listeners) listener();
    });
  }
}
