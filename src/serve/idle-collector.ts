import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** A server that was asked nothing for so long has time to collect its heap, which takes some ten milliseconds. */
export const IDLE_LOOK_MS = 500;

/**
 * Collects the heap once a server that released something is idle. What a load leaves there is otherwise collected when the
 * heap has grown by as much again, or when V8 has seen nothing allocated for some ten seconds.
 */
export class IdleCollector {
  readonly #activity: () => number | undefined;
  readonly #collect: () => void;
  #timer: NodeJS.Timeout | undefined;
  #isStopped = false;

  /** @param activity a count that grows with whatever the server does; undefined while it does something */
  constructor(activity: () => number | undefined, collect: () => void = collectHeap) {
    this.#activity = activity;
    this.#collect = collect;
  }

  /** A version has left memory. */
  released(): void {
    if (this.#isStopped) return;
    let before: number | undefined;
    clearInterval(this.#timer);
    this.#timer = setInterval(() => {
      const now = this.#activity();
      const isIdle = now !== undefined && now === before;
      before = now;
      if (!isIdle) return;
      clearInterval(this.#timer);
      this.#collect();
    }, IDLE_LOOK_MS);
    this.#timer.unref();
  }

  stop(): void {
    this.#isStopped = true;
    clearInterval(this.#timer);
  }
}

function collectHeap(): void {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)(); // The flag puts it into new contexts.
}
