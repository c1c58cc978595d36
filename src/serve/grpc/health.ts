import { create, toBinary } from '@bufbuild/protobuf';
import type { Call } from './call.ts';
import { GrpcError, STATUS } from './errors.ts';
import { frameOf } from './framing.ts';
import { HealthCheckResponseSchema } from './health_pb.ts';

/** ServingStatus of the health checking protocol. */
export const SERVING_STATUS = { SERVING: 1, NOT_SERVING: 2, SERVICE_UNKNOWN: 3 } as const;
export type ServingStatus = (typeof SERVING_STATUS)[keyof typeof SERVING_STATUS];

/** What can be asked after; the empty name means the server. */
const SERVICES: ReadonlySet<string> = new Set([
  '',
  'inference.GRPCInferenceService',
  'grpc.health.v1.Health',
]);

/** The status of a service as `Watch` tells it. */
export function servingStatus(service: string, isReady: boolean): ServingStatus {
  if (!SERVICES.has(service)) return SERVING_STATUS.SERVICE_UNKNOWN;
  return isReady ? SERVING_STATUS.SERVING : SERVING_STATUS.NOT_SERVING;
}

/** The status of a service as `Check` tells it. @throws GrpcError NOT_FOUND for a service that is not here */
export function checkedStatus(service: string, isReady: boolean): ServingStatus {
  const status = servingStatus(service, isReady);
  if (status !== SERVING_STATUS.SERVICE_UNKNOWN) return status;
  throw new GrpcError(STATUS.NOT_FOUND, `unknown service '${service}'`);
}

interface Watcher {
  readonly call: Call;
  readonly service: string;
  last: ServingStatus;
}

/** The calls of `Watch`: each is told the status of its service at once and whenever it changes. */
export class HealthWatch {
  readonly #isReady: () => boolean;
  readonly #watchers = new Set<Watcher>();

  constructor(isReady: () => boolean) {
    this.#isReady = isReady;
  }

  add(call: Call, service: string): void {
    const watcher: Watcher = { call, service, last: servingStatus(service, this.#isReady()) };
    this.#watchers.add(watcher);
    call.stream.on('close', () => this.#watchers.delete(watcher));
    tell(watcher);
  }

  tellChanges(): void {
    for (const watcher of this.#watchers) {
      const status = servingStatus(watcher.service, this.#isReady());
      if (status === watcher.last) continue;
      watcher.last = status;
      tell(watcher);
    }
  }

  end(reason: GrpcError): void {
    for (const { call } of this.#watchers) call.fail(reason);
  }
}

/** Does not wait: changes are few, and a client that does not take them is cut off. */
function tell({ call, last }: Watcher): void {
  const message = toBinary(HealthCheckResponseSchema, create(HealthCheckResponseSchema, { status: last }));
  call.write(frameOf(message)).catch((thrown: unknown) => call.fail(thrown));
}
