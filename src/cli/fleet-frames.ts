import type { FleetRecord } from '../orchestrate/fleet/record.ts';
import type { FleetFrame, FleetTaskFrame } from '../serve/control/messages.ts';

/**
 * Tasks on servers that are told of in a second. Of a fleet that has more, a frame stands for several periods, so that an
 * hour of it has some 200,000 of them, 4 MB, and not a hundred.
 */
export const CELLS_PER_PERIOD = 64;

/** Makes frames of what an orchestrator writes down each period; of several periods the mean demand and the latest else. */
export class FleetFrames {
  #periods = 0;
  #lastMs: number | undefined;
  /** By task and server: demand summed over the periods since the last frame. */
  #sums = new Map<string, Map<string, number>>();

  /** @returns the frame that this period completes, if it does */
  add(record: FleetRecord): Omit<FleetFrame, 'seq'> | undefined {
    let cells = 0;
    for (const { name, tasks } of record.servers) {
      for (const { task, version, demandRps } of tasks) {
        if (version === undefined) continue;
        cells++;
        const sums = this.#sums.get(task) ?? new Map<string, number>();
        this.#sums.set(task, sums.set(name, (sums.get(name) ?? 0) + demandRps));
      }
    }
    this.#periods++;
    if (this.#periods < Math.ceil(cells / CELLS_PER_PERIOD)) return undefined;
    const frame = this.#frameOf(record);
    this.#lastMs = record.savedMs;
    this.#periods = 0;
    this.#sums = new Map();
    return frame;
  }

  #frameOf(record: FleetRecord): Omit<FleetFrame, 'seq'> {
    const servers = new Map<string, Record<string, [number, number]>>();
    for (const { name, health, tasks } of record.servers) {
      if (health !== 'up') continue;
      for (const { task, version } of tasks) {
        if (version === undefined) continue;
        const own = servers.get(task) ?? Object.create(null);
        servers.set(task, own);
        own[name] = [version, short((this.#sums.get(task)?.get(name) ?? 0) / this.#periods)];
      }
    }
    const tasks: Record<string, FleetTaskFrame> = Object.create(null);
    for (const known of record.tasks) {
      tasks[known.task] = {
        servers: servers.get(known.task) ?? {},
        plannedRps: short(known.demandRps),
        unservedRps: short(known.unservedRps ?? 0),
        servedAccuracy: known.servedAccuracy,
        plannedAccuracy: known.plannedAccuracy,
        replicas: known.replicas ?? 0,
        hosts: known.hosts ?? 0,
      };
    }
    const spanMs = record.savedMs - (this.#lastMs ?? record.savedMs);
    return { atMs: record.savedMs, spanMs, tasks };
  }
}

/** Three digits are more than a picture shows. */
function short(value: number): number {
  return Number(value.toPrecision(3));
}
