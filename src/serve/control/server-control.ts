import type { Server } from 'node:http';
import type { Clock } from '../../base/clock.ts';
import type { DataPlane } from '../data-plane.ts';
import type { ModelRegistry } from '../model-registry.ts';
import type { TlsIdentity } from '../safety/tls.ts';
import type { Access } from '../safety/tokens.ts';
import { Board } from './board.ts';
import type { ControlEvent, TaskOverview } from './messages.ts';
import { createControlServer } from './server.ts';
import { objectiveOf, serverLooks } from './server-look.ts';
import type { ServerOverrides } from './server-overrides.ts';
import { versionsOverview } from './versions-overview.ts';

/** Time between looks; as often as a policy looks. */
export const LOOK_PERIOD_MS = 1_000;

export interface ServerControlOptions {
  readonly models: ModelRegistry;
  readonly plane: DataPlane;
  readonly overrides: ServerOverrides;
  readonly clock: Clock;
  readonly cpuBudgetCores: number;
  readonly access: Access;
  /** How the page calls the server. */
  readonly name: string;
  readonly host: string;
  readonly tls?: TlsIdentity;
  readonly onError: (thrown: unknown) => void;
}

/** The control port of a server in this process. */
export class ServerControl {
  /** Not yet listening. */
  readonly server: Server;
  readonly #board: Board;
  readonly #endStreams: () => void;
  readonly #timer: NodeJS.Timeout;

  /** Looks at the server from now on, until `stop`. */
  constructor(options: ServerControlOptions) {
    const { models, plane, overrides, clock, cpuBudgetCores, name } = options;
    const startedAtMs = Math.round(clock.epochMs());
    this.#board = new Board({
      server: name,
      describe: () => ({
        policy: overrides.followedBy,
        cpuBudgetCores,
        startedAtMs,
        overrides: 'open',
        tasks: tasksOverview(models, plane, overrides),
      }),
    });
    const control = createControlServer({ ...options, watched: [{ board: this.#board, overrides }] });
    this.server = control.server;
    this.#endStreams = control.endStreams;
    const look = serverLooks({ models, plane, clock, cpuBudgetCores });
    this.#timer = setInterval(() => control.push(this.#board, look()), LOOK_PERIOD_MS).unref();
  }

  tell(event: ControlEvent): void {
    this.#board.tell(event);
  }

  /** Lets those who watch go; the port is for the caller to close. */
  stop(): void {
    clearInterval(this.#timer);
    this.#endStreams();
  }
}

function tasksOverview(models: ModelRegistry, plane: DataPlane, overrides: ServerOverrides): TaskOverview[] {
  return [...models.models.values()]
    .map((model): TaskOverview => {
      const byHand = overrides.byTask.get(model.name);
      return {
        task: model.name,
        sloMs: objectiveOf(model, plane),
        isSloByHand: byHand?.sloMs !== undefined,
        pinnedVersion: overrides.pinnedOf(model),
        versions: model.stored === undefined ? [] : versionsOverview(model.stored.versions),
      };
    })
    .sort((a, b) => (a.task < b.task ? -1 : 1));
}
