import { join } from 'node:path';
import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import type { FleetReader } from '../orchestrate/adapters/kubernetes/fleet-spec.ts';
import { type KubernetesObject, keyOf } from '../orchestrate/adapters/kubernetes/resources.ts';
import { policyByName } from '../policy/registry.ts';
import { listTasks } from '../repository/store.ts';
import type { Context } from './context.ts';
import { fleetFileDefaults } from './fleet-file.ts';
import { checkFleetSpec, checkTaskSpec, fleetFileOf, poolsOf } from './kubernetes-resources.ts';
import { memberOf, membersOf, tokensOf } from './orchestrate-fleet.ts';

/** What a controller is started with, for Fleets that do not say it themselves. */
export interface ReaderOptions {
  /** Where the volume of models lies for the controller. */
  readonly models: string;
  /** The administration token of all servers. */
  readonly tokenFile?: string;
  readonly image: string;
  readonly tokenSecret: string;
}

/** Reads Fleets and Tasks as a fleet's file is read. */
export function fleetReader(options: ReaderOptions, context: Context): FleetReader {
  const taskName = (task: KubernetesObject): string => {
    const { name } = (task.spec ?? {}) as { readonly name?: unknown };
    return typeof name === 'string' ? name : task.metadata.name;
  };
  return {
    taskName,
    read(fleet) {
      const spec = checkFleetSpec(fleet);
      const pools = poolsOf(spec);
      const { policy = fleetFileDefaults.policy } = spec;
      return {
        runtime: spec.runtime ?? 'bonsai',
        image: spec.image ?? options.image,
        repository: spec.repository ?? '',
        volume: spec.volume ?? {},
        tokenSecret: spec.tokenSecret ?? options.tokenSecret,
        tlsSecret: spec.tls?.secret,
        pools,
        policy: policy === fleetFileDefaults.policy ? undefined : policyByName(policy),
        utilization: spec.utilization,
        periodMs: spec.period ?? fleetFileDefaults.periodMs,
      };
    },
    async members(fleet, tasks, pods) {
      const { repository: within = '', tls } = checkFleetSpec(fleet);
      const scheme = tls?.secret === undefined ? 'http' : 'https';
      const trust = tls && { ca: tls.ca, name: tls.name };
      const repository = join(options.models, within);
      const found = pods.map(({ name, pool, http, grpc, metrics }) => ({
        name,
        pool,
        url: `${scheme}://${http}`,
        metrics: `${scheme}://${metrics}`,
        grpc,
        tokenFile: options.tokenFile,
      }));
      const known = await listTasks(repository);
      const refused = new Map<string, string>();
      const good: KubernetesObject[] = [];
      for (const task of tasks) {
        const why = refusalOf(task, good);
        if (why === undefined) good.push(task);
        else refused.set(keyOf(task.metadata), why);
      }
      const file = fleetFileOf(fleet, good, found, repository);
      const tokens = await tokensOf(file.servers);
      const servers = file.servers.map((server, i) => memberOf(server, tokens[i], context, trust));
      // Without Tasks nothing is served, where a file without tasks means all of the repository.
      const described =
        good.length === 0 ? { tasks: [] } : (await membersOf({ ...file, servers: [] }, context)).members;
      return { members: { servers, tasks: described.tasks }, refused };

      function refusalOf(task: KubernetesObject, before: readonly KubernetesObject[]): string | undefined {
        try {
          checkTaskSpec(task);
          const name = taskName(task);
          if (!known.includes(name))
            throw new InvalidArgumentError(
              `The repository has no task ${name}; it has ${known.join(', ') || 'none'}.`,
            );
          const twin = before.find((other) => taskName(other) === name);
          if (twin !== undefined)
            throw new InvalidArgumentError(
              `Task ${twin.metadata.name} is about ${name} already, and is older.`,
            );
          fleetFileOf(fleet, [task], found, repository);
          return undefined;
        } catch (error) {
          if (error instanceof BonsaiError) return error.message;
          throw error;
        }
      }
    },
  };
}
