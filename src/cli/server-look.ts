import type { Clock } from '../base/clock.ts';
import type { LookRecord } from '../orchestrate/watch.ts';
import type { Look } from '../serve/control/board.ts';
import type { TaskFrame } from '../serve/control/messages.ts';

/**
 * What a loop has seen of a server, as the page has it. Servers that are not Bonsai's tell no latencies and no shares.
 * @param sloMsOf the objective of a task now; by default none is told
 */
export function serverLookOf(
  { scrape, seen, spanMs }: LookRecord,
  clock: Clock,
  sloMsOf: (task: string) => number | undefined = () => undefined,
): Look {
  const tasks: Record<string, TaskFrame> = Object.create(null);
  for (const task of new Set([...scrape.requests.keys(), ...scrape.serving.keys()])) {
    const servingVersion = scrape.serving.get(task);
    const planned = scrape.planned?.get(task) ?? [];
    const resident = scrape.resident?.get(task) ?? (servingVersion === undefined ? [] : [servingVersion]);
    tasks[task] = {
      arrivals: Math.round(((seen.demandRps.get(task) ?? 0) * spanMs) / 1000),
      violations: seen.violations.get(task),
      queued: scrape.queued.get(task),
      sloMs: sloMsOf(task),
      servingVersion,
      resident: Object.fromEntries(
        resident.map((version) => [
          version,
          planned.find((service) => service.version === version)?.serviceMs ?? 0,
        ]),
      ),
    };
  }
  return {
    atMs: Math.round(clock.epochMs()),
    spanMs: Math.round(spanMs),
    cpuUtilization: seen.utilization,
    memoryBytes: scrape.memoryBytes,
    tasks,
  };
}
