import type { Clock } from '../base/clock.ts';
import { messageOf } from '../base/errors.ts';
import type { Logger } from '../orchestrate/logger.ts';
import type { DecisionRecord } from '../orchestrate/loop.ts';
import type { LookRecord, TaskOverride } from '../orchestrate/watch.ts';
import { ModelNotFoundError, VersionNotFoundError } from '../repository/errors.ts';
import type { TaskManifest } from '../repository/types.ts';
import { Board } from '../serve/control/board.ts';
import type { TaskOverview } from '../serve/control/messages.ts';
import { type Overrides, withOverride } from '../serve/control/overrides.ts';
import { createControlServer } from '../serve/control/server.ts';
import { versionsOverview } from '../serve/control/versions-overview.ts';
import { listenForControl } from '../serve/listen.ts';
import { Access } from '../serve/safety/tokens.ts';
import { changesOf } from './decision-text.ts';
import { serverLookOf } from './server-look.ts';

export interface OrchestrateControl {
  readonly url: string;
  /** What people have set for single tasks, on all servers. */
  overrides(): ReadonlyMap<string, TaskOverride>;
  onLook(look: LookRecord): void;
  onDecision(record: DecisionRecord): void;
  close(): Promise<void>;
}

/** The live page of an orchestrator: a board for each server, fed by what the loop sees and decides. */
export async function orchestrateControl(options: {
  readonly host: string;
  readonly port: number | 'default';
  readonly servers: readonly string[];
  readonly policyName: string;
  readonly tasks: readonly TaskManifest[];
  /** Of a task where nobody has set one by hand. */
  readonly sloMsOf: (task: TaskManifest) => number | undefined;
  /** That changes need: the one that the servers ask of the orchestrator itself. */
  readonly token: string | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}): Promise<OrchestrateControl> {
  const { host, port, policyName, tasks, sloMsOf, token, clock, logger } = options;
  const startedAtMs = Math.round(clock.epochMs());
  const budgets = new Map<string, number>();
  const overrides = overridesOf(tasks);
  const versions = new Map(
    tasks.map(({ task, variants }) => [
      task,
      versionsOverview(variants.map((variant) => ({ version: variant.version, variant }))),
    ]),
  );
  const describe = (server: string) => () => ({
    policy: policyName,
    cpuBudgetCores: budgets.get(server),
    startedAtMs,
    overrides: 'open' as const,
    tasks: tasks.map((manifest): TaskOverview => {
      const byHand = overrides.byTask.get(manifest.task);
      return {
        task: manifest.task,
        sloMs: byHand?.sloMs ?? sloMsOf(manifest),
        isSloByHand: byHand?.sloMs !== undefined,
        pinnedVersion: byHand?.version,
        versions: versions.get(manifest.task) ?? [],
      };
    }),
  });
  const objectiveOf = (task: string) => {
    const manifest = tasks.find((each) => each.task === task);
    return overrides.byTask.get(task)?.sloMs ?? (manifest && sloMsOf(manifest));
  };
  const boards = new Map(
    options.servers.map((server) => [server, new Board({ server, describe: describe(server) })]),
  );
  const control = createControlServer({
    watched: [...boards.values()].map((board) => ({ board, overrides })),
    access: new Access(token === undefined ? {} : { administration: [token] }),
    clock,
    host,
    onError: (thrown) => logger.error({}, `The control port failed to answer: ${messageOf(thrown)}`),
  });
  const used = await listenForControl(control.server, host, port);
  return {
    url: `http://${host}:${used}/`,
    overrides: () => overrides.byTask,
    onLook: (look) => {
      const board = boards.get(look.server);
      budgets.set(look.server, look.scrape.cpuBudget);
      if (board !== undefined) control.push(board, serverLookOf(look, clock, objectiveOf));
    },
    onDecision: (record) =>
      boards.get(record.server)?.tell({
        atMs: Math.round(clock.epochMs()),
        kind: 'decision',
        reason: record.reason,
        changes: changesOf(record),
        notice: record.notice,
      }),
    close: async () => {
      control.endStreams();
      control.server.closeAllConnections();
      await new Promise((resolve) => control.server.close(resolve));
    },
  };
}

function overridesOf(tasks: readonly TaskManifest[]): Overrides {
  let byTask: ReadonlyMap<string, TaskOverride> = new Map();
  const known = (name: string) => {
    const found = tasks.find(({ task }) => task === name);
    if (found === undefined) throw new ModelNotFoundError(name);
    return found.variants.map(({ version }) => version);
  };
  return {
    get byTask() {
      return byTask;
    },
    pin: async (task, version) => {
      const versions = known(task);
      if (version !== undefined && !versions.includes(version))
        throw new VersionNotFoundError(task, version, versions);
      byTask = withOverride(byTask, task, { version });
    },
    setSlo: (task, sloMs) => {
      known(task);
      byTask = withOverride(byTask, task, { sloMs });
    },
  };
}
