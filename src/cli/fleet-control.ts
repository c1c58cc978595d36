import type { Clock } from '../base/clock.ts';
import { InvalidArgumentError, messageOf } from '../base/errors.ts';
import { isHeld, type LeaseRecord, readLease } from '../orchestrate/fleet/lease.ts';
import type { FleetMembers } from '../orchestrate/fleet/members.ts';
import { withDrained, withTaskOverride } from '../orchestrate/fleet/overrides.ts';
import { changeFleetOverrides } from '../orchestrate/fleet/overrides-file.ts';
import { type FleetDecision, type FleetRecord, readFleetRecord } from '../orchestrate/fleet/record.ts';
import type { Logger } from '../orchestrate/logger.ts';
import { type LookRecord, type TaskOverride, watchDefaults } from '../orchestrate/watch.ts';
import { ModelNotFoundError, VersionNotFoundError } from '../repository/errors.ts';
import { profileOf } from '../repository/types.ts';
import { Board, type Description } from '../serve/control/board.ts';
import { FleetBoard, type FleetDescription } from '../serve/control/fleet-board.ts';
import type { ControlEvent, FleetOrchestrator, TaskOverview } from '../serve/control/messages.ts';
import type { Overrides } from '../serve/control/overrides.ts';
import { createControlServer, type Watched } from '../serve/control/server.ts';
import { versionsOverview } from '../serve/control/versions-overview.ts';
import { listenForControl } from '../serve/listen.ts';
import { Access } from '../serve/safety/tokens.ts';
import { FleetFrames } from './fleet-frames.ts';
import { serverLookOf } from './server-look.ts';

/** Of a fleet's page: 8080, the usual one, is what balancers have. */
export const DEFAULT_FLEET_CONTROL_PORT = 8090;

/** Hours of all servers together: that of two tasks takes 1 MB, so that 60 servers have all of theirs and 200 a third. */
const MAX_BOARDS_BYTES = 64 * 1024 * 1024;

/** Between looks at what another orchestrator writes down. */
const WAITING_PERIOD_MS = 1_000;

/** The live page of a fleet: one of all servers together, and one for each. */
export interface FleetControl {
  readonly url: string;
  /** This orchestrator has the lease. */
  leads(lease: LeaseRecord): void;
  /** It waits for the lease; until it leads, the page shows what the state file says. */
  waits(): void;
  setMembers(members: FleetMembers): void;
  /** Those that the servers ask of the orchestrator; any of them lets people change the fleet. */
  setTokens(tokens: readonly string[]): void;
  onLook(look: LookRecord): void;
  onDecision(decision: FleetDecision): void;
  onRecord(record: FleetRecord): void;
  close(): Promise<void>;
}

/** @throws BonsaiError `port_in_use` */
export async function fleetControl(options: {
  readonly host: string;
  readonly port: number | 'default';
  readonly members: FleetMembers;
  readonly policyName: string;
  /** Where the state lies, and where what people set by hand does. */
  readonly statePath: string;
  readonly leasePath: string;
  readonly overridesPath: string;
  readonly tokens: readonly string[];
  readonly clock: Clock;
  readonly logger: Logger;
}): Promise<FleetControl> {
  const { host, port, policyName, statePath, leasePath, overridesPath, clock, logger } = options;
  const startedAtMs = Math.round(clock.epochMs());
  let { members } = options;
  let record = await readFleetRecord(statePath).catch(() => undefined);
  let orchestrator: FleetOrchestrator = { isActive: false };
  const frames = new FleetFrames();

  // Made anew only when it changes: each board looks at it every second.
  let tasks: readonly TaskOverview[] = tasksOf(members, record);
  let tasksText = JSON.stringify(tasks);
  const refreshTasks = () => {
    const next = tasksOf(members, record);
    const text = JSON.stringify(next);
    if (text === tasksText) return;
    tasks = next;
    tasksText = text;
    descriptions.clear();
  };
  const budgets = new Map<string, number>();
  const descriptions = new Map<string, Description>();
  const describe = (server: string) => (): Description => {
    const known = descriptions.get(server);
    if (known !== undefined) return known;
    const made: Description = {
      policy: policyName,
      cpuBudgetCores: budgets.get(server),
      startedAtMs,
      overrides: 'open',
      tasks,
    };
    descriptions.set(server, made);
    return made;
  };

  const overrides = overridesOf({
    members: () => members,
    record: () => record,
    change: (change) => changeFleetOverrides(overridesPath, change, clock),
  });
  const watched: Watched[] = [];
  const adopt = () => {
    const names = members.servers.map(({ name }) => name);
    const boards = new Map(watched.map(({ board }) => [board.server, board]));
    for (const [name, board] of boards) {
      if (names.includes(name)) continue;
      board.end();
      budgets.delete(name);
      descriptions.delete(name);
    }
    watched.length = 0;
    for (const name of names) {
      const board = boards.get(name) ?? new Board({ server: name, describe: describe(name) });
      board.ring.limit(MAX_BOARDS_BYTES / names.length);
      watched.push({ board, overrides });
    }
    refreshTasks();
  };
  adopt();
  const boardOf = (server: string) => watched.find(({ board }) => board.server === server)?.board;

  const describeFleet = (decisions?: readonly FleetDecision[]): FleetDescription => ({
    startedAtMs,
    policy: policyName,
    orchestrator,
    tasks,
    state: record && { ...record, decisions: decisions ?? record.decisions },
  });
  const fleet = new FleetBoard({ describe: () => describeFleet() });
  const access = new Access(tokensOf(options.tokens));
  const control = createControlServer({
    watched,
    fleet: {
      board: fleet,
      drain: async (server, isDrained) => {
        const names = members.servers.map(({ name }) => name);
        checkServerName(names, server);
        await changeFleetOverrides(overridesPath, (before) => withDrained(before, server, isDrained), clock);
      },
    },
    access,
    clock,
    host,
    onError: (thrown) => logger.error({}, `The control port failed to answer: ${messageOf(thrown)}`),
  });
  const used = await listenForControl(control.server, host, port, DEFAULT_FLEET_CONTROL_PORT);

  let lastDecision = '';
  const onRecord = (next: FleetRecord) => {
    record = next;
    refreshTasks();
    const seen = next.decisions.findLastIndex((decision) => JSON.stringify(decision) === lastDecision);
    lastDecision = JSON.stringify(next.decisions.at(-1) ?? null);
    control.pushFleet(describeFleet(next.decisions.slice(seen + 1)), frames.add(next));
  };

  let waiting: NodeJS.Timeout | undefined;
  let isLooking = false;
  const lookAtOther = async () => {
    if (isLooking) return;
    isLooking = true;
    try {
      const lease = await readLease(leasePath);
      const next = await readFleetRecord(statePath);
      if (waiting === undefined) return;
      orchestrator = { isActive: false, ...(lease !== undefined && isHeld(lease, clock) && ownerOf(lease)) };
      if (next !== undefined && next.savedMs !== record?.savedMs) onRecord(next);
      else control.pushFleet(describeFleet([]));
    } catch (thrown) {
      logger.debug({}, messageOf(thrown));
    } finally {
      isLooking = false;
    }
  };
  const stopWaiting = () => {
    clearInterval(waiting);
    waiting = undefined;
  };

  return {
    url: `http://${host}:${used}/`,
    leads: (lease) => {
      stopWaiting();
      orchestrator = { isActive: true, ...ownerOf(lease) };
    },
    waits: () => {
      stopWaiting();
      orchestrator = { isActive: false };
      waiting = setInterval(() => void lookAtOther(), WAITING_PERIOD_MS).unref();
      void lookAtOther();
    },
    setMembers: (next) => {
      members = next;
      adopt();
    },
    setTokens: (tokens) => access.replace(tokensOf(tokens)),
    onLook: (look) => {
      const board = boardOf(look.server);
      if (board === undefined) return;
      if (budgets.get(look.server) !== look.scrape.cpuBudget) {
        budgets.set(look.server, look.scrape.cpuBudget);
        descriptions.delete(look.server);
      }
      control.push(board, serverLookOf(look, clock));
    },
    onDecision: (decision) => {
      const event = eventOf(decision);
      if (decision.server !== undefined) boardOf(decision.server)?.tell(event);
      else if (decision.kind === 'override') for (const { board } of watched) board.tell(event);
    },
    onRecord,
    close: async () => {
      stopWaiting();
      control.endStreams();
      control.server.closeAllConnections();
      await new Promise((resolve) => control.server.close(resolve));
    },
  };
}

function tokensOf(tokens: readonly string[]) {
  return tokens.length === 0 ? {} : { administration: tokens };
}

function ownerOf({ pid, host, term, sinceMs }: LeaseRecord): Omit<FleetOrchestrator, 'isActive'> {
  return { pid, host, term, sinceMs };
}

/** @throws InvalidArgumentError for a name that none of the servers has */
export function checkServerName(names: readonly string[], name: string): void {
  if (names.includes(name)) return;
  throw new InvalidArgumentError(
    `This fleet has no server "${name.slice(0, 80)}"; it has ${names.join(', ')}.`,
  );
}

function tasksOf(members: FleetMembers, record: FleetRecord | undefined): TaskOverview[] {
  return members.tasks.map(({ manifest, objective }) => {
    const byHand: TaskOverride | undefined = record?.overrides?.tasks[manifest.task];
    return {
      task: manifest.task,
      sloMs: byHand?.sloMs ?? objective.sloMs ?? manifest.sloMs ?? watchDefaults.sloMs,
      isSloByHand: byHand?.sloMs !== undefined,
      pinnedVersion: byHand?.version,
      versions: versionsOverview(variantsOf(manifest.variants)),
    };
  });
}

type Variants = FleetMembers['tasks'][number]['manifest']['variants'];

const wrapped = new WeakMap<Variants, { version: number; variant: Variants[number] }[]>();

/** The same array for the same variants, by which their description is remembered. */
function variantsOf(variants: Variants) {
  const known = wrapped.get(variants) ?? variants.map((variant) => ({ version: variant.version, variant }));
  wrapped.set(variants, known);
  return known;
}

/** Of all servers at once: which of them was asked for does not matter. */
function overridesOf(fleet: {
  readonly members: () => FleetMembers;
  readonly record: () => FleetRecord | undefined;
  readonly change: (change: Parameters<typeof changeFleetOverrides>[1]) => Promise<unknown>;
}): Overrides {
  const variantsOfTask = (task: string) => {
    const found = fleet.members().tasks.find(({ manifest }) => manifest.task === task);
    if (found === undefined) throw new ModelNotFoundError(task);
    return found.manifest.variants;
  };
  return {
    isToldLater: true,
    get byTask() {
      return new Map(Object.entries(fleet.record()?.overrides?.tasks ?? {}));
    },
    pin: async (task, version) => {
      const variants = variantsOfTask(task);
      const variant = variants.find((known) => known.version === version);
      if (version !== undefined && variant === undefined)
        throw new VersionNotFoundError(
          task,
          version,
          variants.map((known) => known.version),
        );
      if (variant !== undefined && profileOf(variant) === undefined)
        throw new InvalidArgumentError(
          `Version ${version} of ${task} has no profile, so that nobody knows what it costs. Profile it (bonsai profile), or pin another.`,
        );
      await fleet.change((before) => withTaskOverride(before, task, { version }));
    },
    setSlo: async (task, sloMs) => {
      variantsOfTask(task);
      await fleet.change((before) => withTaskOverride(before, task, { sloMs }));
    },
  };
}

/** A decision about the fleet as the log of a single server has it. */
function eventOf({ atMs, kind, text }: FleetDecision): ControlEvent {
  if (kind === 'override')
    return {
      atMs,
      kind: 'override',
      reason: 'Set by hand, for the fleet.',
      changes: [text.replace(/^By hand: /, '')],
    };
  const colon = text.indexOf(': ');
  const head = colon < 0 ? text : text.slice(0, colon);
  const reason = colon < 0 ? text : text.slice(colon + 2);
  return { atMs, kind: 'decision', reason, changes: kind === 'done' ? [] : [head] };
}
