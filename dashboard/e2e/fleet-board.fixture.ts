import type { AddressInfo } from 'node:net';
import { FleetFrames } from '../../src/cli/fleet-frames.ts';
import type { FleetDecision, FleetRecord, ServerRecord } from '../../src/orchestrate/fleet/record.ts';
import { Board } from '../../src/serve/control/board.ts';
import { FleetBoard, type FleetDescription } from '../../src/serve/control/fleet-board.ts';
import type { TaskOverview } from '../../src/serve/control/messages.ts';
import { createControlServer } from '../../src/serve/control/server.ts';
import { Access } from '../../src/serve/safety/tokens.ts';

const START_MS = Date.UTC(2026, 0, 1, 12);
const TASKS = ['cameras', 'digits', 'signs'];
const VERSIONS = [1, 2, 3, 4, 5];
/** A fault for every so many servers. */
const FAULTY = 23;

const accuracyOf = (version: number) => 0.97 - 0.02 * version;

/** How a made-up fleet is at a second: demand swings, versions follow it, some servers are in trouble. */
export function recordAt(second: number, size: number): FleetRecord {
  const isHost = (i: number, task: number) => i % TASKS.length === task || size <= 4;
  const hosts = TASKS.map((_, task) => Array.from({ length: size }).filter((_, i) => isHost(i, task)).length);
  const demandOf = (task: number) =>
    Math.max(2, (3 + task) * hosts[task]! * (1.2 + Math.sin(second / (70 + 50 * task) + task)));
  const versionOf = (i: number, task: number) => {
    const level = Math.sin((second - 2 * (i % 40)) / (70 + 50 * task) + task);
    return Math.min(VERSIONS.length, Math.max(1, Math.round(3 + 2 * level)));
  };
  const servers = Array.from({ length: size }, (_, i): ServerRecord => {
    const isDown = i % FAULTY === FAULTY - 3;
    const isDrained = i % FAULTY === FAULTY - 2 || undefined;
    const own = TASKS.flatMap((task, k) => (isHost(i, k) && !isDrained ? [{ task, k }] : []));
    return {
      name: `edge-${i + 1}`,
      http: `10.0.0.${i + 1}:8000`,
      health: isDown ? 'down' : 'up',
      healthSinceMs: START_MS - 60_000 * (i + 1),
      isDrained,
      ...(isDown && { trouble: `10.0.0.${i + 1}:8000 refuses connections.` }),
      ...(i % 4 === 2 && { ownPolicy: 'bonsai' }),
      cpus: 1 + (i % 4),
      utilization: isDown ? undefined : 0.3 + 0.3 * Math.sin(second / 60 + i) ** 2,
      memoryBytes: 512e6,
      networkBytes: own.length * 90e6,
      residentBytes: isDown ? undefined : 210e6 + i * 1e5,
      ...(i % FAULTY === 7 && { change: `switch ${own[0]?.task ?? 'digits'} 3 -> 2 on edge-${i + 1}` }),
      tasks: own.map(({ task, k }) => ({
        task,
        version: versionOf(i, k),
        plannedVersion: versionOf(i, k),
        weight: isDown ? 0 : 40 + ((7 * i) % 60),
        demandRps: isDown ? 0 : demandOf(k) / hosts[k]!,
      })),
    };
  });
  return {
    schemaVersion: 1,
    term: 3,
    savedMs: START_MS + 1000 * second,
    plan: {
      reason: `3 of 3 tasks on ${servers.filter(({ health }) => health === 'up').length} of ${size} servers: demand takes 62 % of the CPU at accuracy 97.4 %.`,
      utilization: 0.62,
      accuracy: 0.974,
      unplaced: [],
      unservedRps: {},
    },
    balancer: { kind: 'NGINX' },
    servers,
    tasks: TASKS.map((task, k) => {
      const hosts = servers.filter(
        ({ health, tasks }) => health === 'up' && tasks.some((t) => t.task === task),
      );
      const served = hosts.map(({ tasks }) => accuracyOf(tasks.find((t) => t.task === task)!.version!));
      const mean = served.reduce((sum, accuracy) => sum + accuracy, 0) / served.length;
      return {
        task,
        demandRps: 1.1 * demandOf(k),
        arrivalRps: demandOf(k),
        unservedRps: 0,
        sloMs: 200,
        replicas: 2,
        hosts: hosts.length,
        servedAccuracy: mean,
        plannedAccuracy: mean + 0.002,
      };
    }),
    decisions: Array.from({ length: 20 }, (_, i) => decisionAt(2 * Math.floor(second / 10) - 19 + i, size)),
  };
}

/** Every ten seconds a change begins and is done. */
function decisionAt(number: number, size: number): FleetDecision {
  const index = Math.abs(number) >> 1;
  const server = `edge-${1 + ((5 * index) % size)}`;
  const what = `switch ${TASKS[index % TASKS.length]} ${1 + (index % 3)} -> ${2 + (index % 3)} on ${server}`;
  const isBegin = number % 2 === 0;
  return {
    atMs: START_MS + 5_000 * number,
    kind: isBegin ? 'begin' : 'done',
    server,
    text: isBegin
      ? `${what}: ${server} is to carry ${(8.3 + (index % 9)).toFixed(1)} req/s (33 %), which version ${2 + (index % 3)} does in 0.61 cores.`
      : `${what} took 1.2 s.`,
  };
}

const overview = (task: string): TaskOverview => ({
  task,
  sloMs: 200,
  isSloByHand: false,
  versions: VERSIONS.map((version) => ({ version, accuracy: accuracyOf(version), isOnFrontier: true })),
});

/** A control server over a made-up fleet of so many servers. */
export async function fleetBoard(size: number, options: { readonly isActive?: boolean } = {}) {
  let second = 0;
  let record = recordAt(second, size);
  const frames = new FleetFrames();
  const describe = (): FleetDescription => ({
    startedAtMs: START_MS,
    policy: 'plan',
    orchestrator: {
      isActive: options.isActive ?? true,
      pid: 4242,
      host: 'box',
      term: 3,
      sinceMs: START_MS - 3_600_000,
    },
    tasks: TASKS.map(overview),
    state: record,
  });
  const board = new FleetBoard({ describe });
  const boards = record.servers.map(
    ({ name }) =>
      new Board({
        server: name,
        describe: () => ({ startedAtMs: START_MS, overrides: 'open', tasks: TASKS.map(overview) }),
      }),
  );
  const control = createControlServer({
    watched: boards.map((each) => ({ board: each })),
    fleet: { board, drain: async () => {} },
    access: new Access(),
    clock: { nowMs: () => 0, epochMs: () => START_MS + 1000 * second },
    host: '127.0.0.1',
    onError: (thrown) => {
      throw thrown;
    },
  });
  await new Promise<void>((resolve) => control.server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(control.server.address() as AddressInfo).port}/`, // A listening TCP server has one.
    board,
    get record() {
      return record;
    },
    push(count: number): void {
      for (let i = 0; i < count; i++) {
        second++;
        record = recordAt(second, size);
        const news = { ...record, decisions: record.decisions.slice(-2) };
        control.pushFleet({ ...describe(), state: news }, frames.add(record));
      }
    },
    async close(): Promise<void> {
      control.endStreams();
      control.server.closeAllConnections();
      await new Promise((resolve) => control.server.close(resolve));
    },
  };
}
