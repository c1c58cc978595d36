import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import type { Clock } from '../base/clock.ts';
import { messageOf } from '../base/errors.ts';
import { isNumeric } from '../base/tensor.ts';
import type { TensorSpec } from '../repository/types.ts';
import type { DataPlane, RequestPlane } from './data-plane.ts';
import { RefusedError } from './errors.ts';
import { warmGrpc } from './grpc/path-warm-up.ts';
import type { GrpcContext } from './grpc/server.ts';
import type { LiveVersion } from './live-version.ts';
import type { ModelRegistry } from './model-registry.ts';
import { warmRest } from './rest/path-warm-up.ts';
import type { RestContext } from './rest/server.ts';
import { Access } from './safety/tokens.ts';

/** A network that requests for warming can be made up for: its name, and its inputs with one example. */
export interface WarmTarget {
  readonly model: string;
  readonly inputs: readonly TensorSpec[];
}

/**
 * Given to each protocol. The first request takes some 20 ms, the tenth 2, the hundredth near what it takes in the end;
 * it must not delay a start by more than that is worth.
 */
export const PATH_WARM_UP_MS = 100;

/**
 * As much for refusals. Overload begins at once, and its first second is when answers come late: what refused at once took ten
 * times as long as later, of the CPU that the inferences needed.
 */
export const REFUSAL_WARM_UP_MS = 80;

/** Slower networks would fill the time with inferences. */
export const MAX_WARM_SERVICE_MS = 10;

/**
 * Sends requests through the whole path of each protocol, from socket to inference and back, so that the first ones of
 * clients find it compiled. They go to servers of its own on loopback, behind a token that nobody else knows, and are
 * counted nowhere. What goes wrong is told in the log only.
 */
export async function warmPath(
  context: RestContext & Omit<GrpcContext, 'plane'> & { readonly plane: DataPlane },
  options: { readonly clock: Clock; readonly logger: Logger; readonly offersGrpc: boolean },
): Promise<void> {
  const { clock, logger, offersGrpc } = options;
  const target = targetOf(context.models);
  if (target === undefined) return;
  const token = randomBytes(32).toString('hex');
  const own = {
    ...context,
    plane: uncounted(context.plane),
    access: new Access({ inference: [token] }),
    isReady: () => true,
  };
  const warmFor = async (
    durationMs: number,
    warm: typeof warmRest | typeof warmGrpc,
    plane: RequestPlane,
  ) => {
    const untilMs = clock.nowMs() + durationMs;
    await warm({ ...own, plane }, target, token, () => clock.nowMs() < untilMs);
  };
  for (const warm of offersGrpc ? [warmRest, warmGrpc] : [warmRest]) {
    try {
      await warmFor(PATH_WARM_UP_MS, warm, own.plane);
      await warmFor(REFUSAL_WARM_UP_MS, warm, refusing(own.plane));
    } catch (thrown) {
      logger.warn({ reason: messageOf(thrown) }, 'the first requests will be slow: warming up failed');
    }
  }
}

/** As under overload. */
function refusing(plane: RequestPlane): RequestPlane {
  return {
    ...plane,
    hasWaiting: true,
    checkAdmission: () => {
      throw new RefusedError('queue_full', 'Only for warming up.', 1);
    },
  };
}

/** The same queue and slots, but without a trace in the statistics. */
function uncounted(plane: DataPlane): RequestPlane {
  return {
    bytes: plane.bytes,
    get hasWaiting() {
      return plane.hasWaiting;
    },
    checkAdmission: (head) => plane.checkAdmission(head),
    submit: (request) => plane.submit({ ...request, isUncounted: true }),
  };
}

function targetOf({ models }: ModelRegistry): WarmTarget | undefined {
  let best: { model: string; live: LiveVersion } | undefined;
  for (const { name, current: live } of models.values()) {
    if (live === undefined || live.serviceMs() > MAX_WARM_SERVICE_MS || !live.inputs.every(canMakeUp))
      continue;
    if (best === undefined || live.serviceMs() < best.live.serviceMs()) best = { model: name, live };
  }
  if (best === undefined) return undefined;
  const inputs = best.live.inputs.map((spec) => ({
    ...spec,
    shape: spec.shape.map((size) => Math.max(size, 1)),
  }));
  return { model: best.model, inputs };
}

/** Only the first size may be open. */
function canMakeUp({ dtype, shape }: TensorSpec): boolean {
  return isNumeric(dtype) && !shape.slice(1).includes(-1);
}
