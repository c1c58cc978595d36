/** Latencies kept between two looks; enough for a 99th percentile that is one of them. */
export const MAX_KEPT_LATENCIES = 256;

/** An answer, as whoever watches sees it. */
export interface LatencySample {
  /** When it was there, on the server's clock. */
  readonly atMs: number;
  readonly latencyMs: number;
  readonly version: number;
}

/** What was answered between two looks. */
export interface RecentAnswers {
  /** By version. */
  readonly counts: ReadonlyMap<number, number>;
  /** An even choice of all answers with a deadline, in order of time; at most `MAX_KEPT_LATENCIES`. */
  readonly samples: readonly LatencySample[];
  /** The slowest of all; undefined: none was answered. */
  readonly slowest?: LatencySample;
}

/**
 * The latest answers of a task for whoever looks now and then. Costs some ten nanoseconds an answer and never grows: when
 * its room is full every second latency is let go, and from then on every second one is taken, and so on.
 */
export class RecentLatencies {
  readonly #atMs = new Float64Array(MAX_KEPT_LATENCIES);
  readonly #latencyMs = new Float64Array(MAX_KEPT_LATENCIES);
  readonly #version = new Uint32Array(MAX_KEPT_LATENCIES);
  #counts = new Map<number, number>();
  #kept = 0;
  #stride = 1;
  #untilNext = 1;
  #slowest: LatencySample | undefined;
  #late = 0;

  /** Answers that came after their objective, since the server has the task. */
  get late(): number {
    return this.#late;
  }

  /** @param latencyMs undefined: the answer had no deadline, so that its time says nothing of the service */
  add(version: number, latencyMs: number | undefined, isLate: boolean, atMs: number): void {
    this.#counts.set(version, (this.#counts.get(version) ?? 0) + 1);
    if (isLate) this.#late++;
    if (latencyMs === undefined) return;
    if (this.#slowest === undefined || latencyMs > this.#slowest.latencyMs)
      this.#slowest = { atMs, latencyMs, version };
    if (--this.#untilNext > 0) return;
    if (this.#kept === MAX_KEPT_LATENCIES) this.#halve();
    this.#untilNext = this.#stride;
    this.#atMs[this.#kept] = atMs;
    this.#latencyMs[this.#kept] = latencyMs;
    this.#version[this.#kept] = version;
    this.#kept++;
  }

  /** What came since the last call. */
  take(): RecentAnswers {
    const samples = Array.from({ length: this.#kept }, (_, i) => ({
      atMs: this.#atMs[i]!,
      latencyMs: this.#latencyMs[i]!,
      version: this.#version[i]!,
    }));
    const answers = { counts: this.#counts, samples, slowest: this.#slowest };
    this.#counts = new Map();
    this.#kept = 0;
    this.#stride = 1;
    this.#untilNext = 1;
    this.#slowest = undefined;
    return answers;
  }

  /** Of the answers 0, s, 2s, … 255s those with even factors stay; 256s, which is at hand, is the next of them. */
  #halve(): void {
    this.#kept = MAX_KEPT_LATENCIES / 2;
    for (let i = 0; i < this.#kept; i++) {
      this.#atMs[i] = this.#atMs[2 * i]!;
      this.#latencyMs[i] = this.#latencyMs[2 * i]!;
      this.#version[i] = this.#version[2 * i]!;
    }
    this.#stride *= 2;
  }
}
