import { type Dispatch, type DispatchDecision, fastestVersion, shedUnacceptable } from '../dispatch.ts';

/** Tries one dispatch after another until one decides; the last must not throw. */
export function fallingBack(name: string, ladder: readonly [Dispatch, ...Dispatch[]]): Dispatch {
  return {
    name,
    pick(state) {
      for (const dispatch of ladder.slice(0, -1)) {
        try {
          return dispatch.pick(state);
        } catch {
          // The next one is simpler.
        }
      }
      return ladder.at(-1)!.pick(state);
    },
  };
}

/** The fastest acceptable version, in the order of the queue; nothing is planned. */
export const smallestDispatch: Dispatch = {
  name: 'smallest',
  pick({ queue, tasks, nowMs }): DispatchDecision {
    for (const [index, request] of queue.entries()) {
      const task = tasks[request.task];
      if (task === undefined || task.versions.length === 0) {
        if (request.deadlineMs <= nowMs) return { kind: 'shed', index, reason: 'unavailable' };
        continue;
      }
      const fastest = fastestVersion(request, task);
      if (fastest === undefined) return shedUnacceptable(index, request, task);
      if (nowMs + fastest.serviceMs > request.deadlineMs) return { kind: 'shed', index, reason: 'deadline' };
      return { kind: 'run', index, version: fastest.version };
    }
    return { kind: 'wait' };
  },
};
