import type { Logger } from 'pino';
import type { Clock } from '../../base/clock.ts';
import { messageOf } from '../../base/errors.ts';
import type { InferAnswer, InferRequest } from '../data-plane.ts';
import type { Verdict } from './confidence.ts';
import type { RemoteModel } from './remote-infer.ts';

export interface SecondOpinionOptions {
  readonly remote: RemoteModel;
  /** The task that it answers; undefined: all. */
  readonly task?: string;
  /** It is asked if any example's confidence is lower, in (0, 1]. */
  readonly below: number;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Within what a request is to be answered from when it came in; undefined: it did not say. */
  readonly limitMsOf: (request: InferRequest) => number | undefined;
}

export interface OpinionCounts {
  readonly taken: number;
  readonly failed: number;
  /** Came too late for the deadline. */
  readonly late: number;
  /** Not asked since too little time was left, too many were under way, or the breaker was open. */
  readonly skipped: number;
}

export const opinionDefaults = {
  below: 0.5,
  /** Requests to the remote server at a time. */
  maxInFlight: 8,
  /** Where a request has no deadline: it should not wait for ever either. */
  longestWaitMs: 1_000,
  /** Kept of the deadline for the answer's own way. */
  guardMs: 15,
  /** Failures in a row after which nobody asks for a while. */
  failuresToOpen: 5,
  /** The first such while; each further one is twice as long, up to the longest. */
  openMs: 5_000,
  longestOpenMs: 60_000,
  /** Weight of a new latency in the mean and in the deviation, as for the retransmission timer of TCP (RFC 6298). */
  meanWeight: 1 / 8,
  deviationWeight: 1 / 4,
} as const;

/**
 * Asks a remote server about what the local network is not sure of, if its usual latency fits into what is left of the
 * deadline, and answers with what it says. Whatever goes wrong, the local answer goes out in time.
 */
export class SecondOpinion {
  readonly #options: SecondOpinionOptions;
  #inFlight = 0;
  #meanMs: number | undefined;
  #deviationMs = 0;
  #failuresInRow = 0;
  #openUntilMs = 0;
  #openings = 0;
  #counts = { taken: 0, failed: 0, late: 0, skipped: 0 };

  constructor(options: SecondOpinionOptions) {
    this.#options = options;
  }

  get counts(): OpinionCounts {
    return this.#counts;
  }

  /** The latency that the remote server mostly keeps; undefined before its first answer. */
  get expectedMs(): number | undefined {
    return this.#meanMs === undefined ? undefined : this.#meanMs + 2 * this.#deviationMs;
  }

  /** @returns the local answer at once, where nobody is asked; never rejects */
  review(
    request: InferRequest,
    answer: InferAnswer,
    verdicts: readonly Verdict[],
    elapsedMs: number,
  ): InferAnswer | Promise<InferAnswer> {
    const { below, task, limitMsOf, clock } = this.#options;
    if (task !== undefined && request.model.name !== task) return answer;
    if (request.priority === 'batch' || !verdicts.some(({ confidence }) => confidence < below)) return answer;
    const limitMs = limitMsOf(request);
    const leftMs =
      limitMs === undefined ? opinionDefaults.longestWaitMs : limitMs - elapsedMs - opinionDefaults.guardMs;
    const isHopeless = leftMs <= 0 || (this.expectedMs ?? 0) > leftMs;
    if (isHopeless || this.#inFlight >= opinionDefaults.maxInFlight || clock.nowMs() < this.#openUntilMs) {
      this.#counts.skipped++;
      // A server that was slow once would never be asked again: what is expected fades.
      if (isHopeless && this.#meanMs !== undefined) this.#meanMs *= 1 - FADING;
      return answer;
    }
    return this.#ask(request, answer, Math.min(leftMs, opinionDefaults.longestWaitMs));
  }

  async #ask(request: InferRequest, answer: InferAnswer, leftMs: number): Promise<InferAnswer> {
    const { remote, clock } = this.#options;
    const startMs = clock.nowMs();
    const timeout = AbortSignal.timeout(Math.max(1, Math.floor(leftMs)));
    const specs = answer.outputs.map(({ name, dtype, shape }) => ({ name, dtype, shape }));
    this.#inFlight++;
    // While it is tried whether the server is back, one request tries for all.
    if (this.#failuresInRow >= opinionDefaults.failuresToOpen) this.#open();
    try {
      const { outputs, by } = await remote.infer(request.inputs, specs, timeout);
      this.#learn(clock.nowMs() - startMs);
      this.#failuresInRow = 0;
      this.#openUntilMs = 0;
      this.#openings = 0;
      this.#counts.taken++;
      return { ...answer, outputs, accuracy: undefined, secondOpinion: by };
    } catch (thrown) {
      if (timeout.aborted) {
        this.#counts.late++;
        this.#learn(clock.nowMs() - startMs);
      } else this.#counts.failed++;
      this.#failuresInRow++;
      if (this.#failuresInRow === opinionDefaults.failuresToOpen) {
        this.#open();
        this.#options.logger.warn(
          { remote: remote.url, reason: messageOf(thrown) },
          'the second opinion fails; it is not asked for a while',
        );
      }
      return answer;
    } finally {
      this.#inFlight--;
    }
  }

  #open(): void {
    const { openMs, longestOpenMs } = opinionDefaults;
    this.#openUntilMs = this.#options.clock.nowMs() + Math.min(openMs * 2 ** this.#openings, longestOpenMs);
    this.#openings++;
  }

  #learn(latencyMs: number): void {
    const { meanWeight, deviationWeight } = opinionDefaults;
    if (this.#meanMs === undefined) {
      this.#meanMs = latencyMs;
      this.#deviationMs = latencyMs / 2;
      return;
    }
    this.#deviationMs += deviationWeight * (Math.abs(latencyMs - this.#meanMs) - this.#deviationMs);
    this.#meanMs += meanWeight * (latencyMs - this.#meanMs);
  }
}

/** Of what is expected, with each request that did not ask since there was too little time. */
const FADING = 0.01;
