import type { Promised } from '../policy/admission.ts';
import type { QueuedRequest } from '../policy/dispatch.ts';
import type { SimulatedTask } from './scenario.ts';

/** A request on its way through a simulated server. */
export class SimulatedRequest implements QueuedRequest, Promised {
  /** Its place in the workload. */
  readonly id: number;
  readonly task: number;
  readonly arrivalMs: number;
  readonly deadlineMs: number;
  readonly minAccuracy?: number;
  readonly weight: number;
  readonly priority: 'realtime' | 'batch';
  /** Service time / mean service time of whatever version computes it. */
  readonly multiplier: number;
  /** Time that routing and admission reckon with: of the fastest version in memory when it came. */
  serviceMs = 0;

  constructor(id: number, index: number, task: SimulatedTask, arrivalMs: number, multiplier: number) {
    this.id = id;
    this.task = index;
    this.arrivalMs = arrivalMs;
    this.priority = task.priority ?? 'realtime';
    this.deadlineMs = this.priority === 'batch' ? Number.POSITIVE_INFINITY : arrivalMs + task.sloMs;
    this.minAccuracy = task.minAccuracy;
    this.weight = task.weight;
    this.multiplier = multiplier;
  }
}
