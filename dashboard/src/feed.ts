import type { Query } from './api.ts';
import { ApiError, followEvents, getHistory } from './api.ts';

/** An hour at a frame a second, as the server keeps it. */
export const MAX_FRAMES = 3600;

/** Waits between tries to reach a server that is gone; the last one for ever. */
const RETRY_MS = [500, 1_000, 2_000, 5_000];

/** Pause between pages of history, so that fetching an hour is not felt by anybody. */
const BACKFILL_PAUSE_MS = 150;

export type Connection = 'connecting' | 'live' | 'lost' | 'locked' | 'refused';

interface AnyFrame {
  readonly seq: number;
  readonly atMs: number;
}

/** Follows a stream of frames, and fetches the past as far as it is looked at. Comes back by itself. */
export abstract class Feed<F extends AnyFrame> {
  /** Ascending in time. */
  frames: F[] = [];
  connection: Connection = 'connecting';
  /** Why nothing comes, where the server says. */
  problem = '';
  readonly #listeners = new Set<() => void>();
  #lastId: string | undefined;
  #oldestSeq = Number.POSITIVE_INFINITY;
  #oldestMs = Number.POSITIVE_INFINITY;
  #firstSeq = 0;
  #wantedFromMs = 0;
  #isBackfilling = false;
  #stop = new AbortController();
  #wake: (() => void) | undefined;
  #isPending = false;

  /** Where its history and its events are asked for: `''` or `fleet/`. */
  protected abstract readonly path: string;
  protected abstract query(): Query;
  /** Asks for what changes seldom, before anything else. */
  protected abstract begin(signal: AbortSignal): Promise<void>;
  /** Told of frames of the past, the newest page first. */
  protected noteHistory(_frames: readonly F[], _isOlder: boolean): void {}
  protected noteFrame(_frame: F): void {}
  protected noteEvent(_name: string, _data: string): void {}

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Of the server, whose clock may be another one's; of this machine as long as it has told nothing. */
  get now(): number {
    return this.frames.at(-1)?.atMs ?? Date.now();
  }

  /** From anew. */
  protected start(): void {
    this.#stop.abort();
    this.#stop = new AbortController();
    this.frames = [];
    this.#lastId = undefined;
    this.#setConnection('connecting');
    void this.#run(this.#stop.signal);
  }

  stop(): void {
    this.#stop.abort();
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
        await followEvents<F>(
          this.path,
          this.query(),
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
            onEvent: (name, data) => {
              this.noteEvent(name, data);
              this.changed();
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

  /** The overview and the latest page of history. Frames of an earlier run of the server stay. */
  async #begin(signal: AbortSignal): Promise<void> {
    await this.begin(signal);
    signal.throwIfAborted();
    const page = await getHistory<F>(this.path, this.query(), undefined, signal);
    const latest = ascending(page.frames);
    const known = latest[0]?.atMs ?? Number.POSITIVE_INFINITY;
    this.frames = [...this.frames.filter(({ atMs }) => atMs < known), ...latest].slice(-MAX_FRAMES);
    this.#oldestMs = known;
    this.noteHistory(page.frames, false);
    this.#oldestSeq = page.frames[0]?.seq ?? Number.POSITIVE_INFINITY;
    this.#firstSeq = page.firstSeq;
    this.#lastId = `${page.bootId}-${page.frames.at(-1)?.seq ?? 0}`;
    this.changed();
    void this.#backfill();
  }

  #add(frame: F): void {
    while (this.frames.length > 0 && this.frames.at(-1)!.atMs >= frame.atMs) this.frames.pop();
    this.frames.push(frame);
    if (this.frames.length > MAX_FRAMES) this.frames.splice(0, this.frames.length - MAX_FRAMES);
    this.noteFrame(frame);
    this.changed();
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
        const page = await getHistory<F>(this.path, this.query(), this.#oldestSeq, signal);
        if (signal.aborted || page.frames.length === 0) break;
        const older = ascending(page.frames).filter(({ atMs }) => atMs < this.#oldestMs);
        if (older.length > 0) {
          const own = this.frames.findIndex(({ atMs }) => atMs > older.at(-1)!.atMs);
          this.frames.splice(own < 0 ? this.frames.length : own, 0, ...older);
          this.#oldestMs = older[0]!.atMs;
        }
        this.#oldestSeq = page.frames[0]!.seq;
        this.#firstSeq = page.firstSeq;
        this.noteHistory(page.frames, true);
        this.changed();
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
    this.changed();
  }

  /** Tells those who show it, at most once a frame of the screen, however many frames come at once. */
  protected changed(): void {
    if (this.#isPending) return;
    this.#isPending = true;
    // A hidden tab draws nothing, and is told when it is seen again.
    requestAnimationFrame(() => {
      this.#isPending = false;
      for (const listener of this.#listeners) listener();
    });
  }
}

/** Without what was told of a time that came once more: somebody has set the server's clock back. */
export function ascending<F extends AnyFrame>(frames: readonly F[]): F[] {
  const kept: F[] = [];
  for (const frame of frames) {
    while (kept.length > 0 && kept.at(-1)!.atMs >= frame.atMs) kept.pop();
    kept.push(frame);
  }
  return kept;
}
