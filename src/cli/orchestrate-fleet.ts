import { X509Certificate } from 'node:crypto';
import { readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { BonsaiError, InvalidArgumentError, messageOf, systemReason } from '../base/errors.ts';
import { nginxBalancer } from '../orchestrate/adapters/nginx.ts';
import { plainV2Server } from '../orchestrate/adapters/plain-v2-server.ts';
import type { TlsTrust } from '../orchestrate/adapters/v2-exchange.ts';
import { v2Server } from '../orchestrate/adapters/v2-server.ts';
import { runFleet } from '../orchestrate/fleet/fleet-loop.ts';
import { fleetMetrics } from '../orchestrate/fleet/fleet-metrics.ts';
import { acquireLease } from '../orchestrate/fleet/lease.ts';
import type { FleetMembers, FleetServer } from '../orchestrate/fleet/members.ts';
import { followFleetOverrides } from '../orchestrate/fleet/overrides-file.ts';
import {
  type FleetDecision,
  type FleetRecord,
  readFleetRecord,
  writeFleetRecord,
} from '../orchestrate/fleet/record.ts';
import type { FleetOptions } from '../orchestrate/fleet/state.ts';
import type { Logger } from '../orchestrate/logger.ts';
import type { Policy } from '../policy/policy.ts';
import { policyByName } from '../policy/registry.ts';
import { isS3Url } from '../repository/s3/s3-url.ts';
import { listTasks, readManifest } from '../repository/store.ts';
import { DEFAULT_HOST } from '../serve/listen.ts';
import type { Context } from './context.ts';
import { DEFAULT_FLEET_CONTROL_PORT, fleetControl } from './fleet-control.ts';
import {
  addressOf,
  type FleetFile,
  type FleetFileServer,
  fleetFileDefaults,
  metricsOf,
  readFleetFile,
  serverNameOf,
} from './fleet-file.ts';
import { stderrLogger } from './logger.ts';
import { openAdministrators } from './notices.ts';
import { descriptionsOf } from './open-repository.ts';
import { readToken } from './options.ts';
import { isPolicyFile, readPolicyFile } from './policy-file.ts';
import { silentProgress } from './progress.ts';

/** Whether the argument of `bonsai orchestrate` is a fleet's file, and not a repository. */
export function isFleetFile(path: string): boolean {
  return /\.ya?ml$/.test(path);
}

/** What people set by hand, beside the state of a fleet. */
export function overridesPathOf({ state }: Pick<FleetFile, 'state'>): string {
  return `${state}.overrides`;
}

/** The lease beside the state of a fleet. */
export function leasePathOf({ state }: Pick<FleetFile, 'state'>): string {
  return `${state}.lock`;
}

/**
 * Orchestrates the fleet that a file describes, until the context's signal. Where another orchestrator has it, waits until
 * that one is gone; one that loses it waits again.
 */
export async function orchestrateFleet(
  path: string,
  context: Context,
  options: {
    readonly noticeWebhook?: string;
    readonly metricsPort?: number;
    readonly controlPort?: number | 'off';
  },
): Promise<void> {
  const { clock } = context;
  const logger = stderrLogger();
  const described = await readFleetFile(path);
  // What is wrong shows before anybody waits for a lease.
  const { members: first, tokens } = await membersOf(described, context);
  const policy = await policyOf(described);
  const balancer = balancerOf(described, context);
  await balancer?.check();
  const metrics = fleetMetrics();
  const moreMetrics = () => metrics.text();
  const { told, page } = await openAdministrators(context, logger, { ...options, moreMetrics });
  const overridesPath = overridesPathOf(described);
  const control =
    options.controlPort === 'off'
      ? undefined
      : await fleetControl({
          host: DEFAULT_HOST,
          port: options.controlPort ?? freeControlPortOf(described),
          members: first,
          policyName: policy?.name ?? fleetFileDefaults.policy,
          statePath: described.state,
          leasePath: leasePathOf(described),
          overridesPath,
          tokens,
          clock,
          logger,
        });
  if (control !== undefined) logger.info({ control: control.url }, `See it at ${control.url}`);
  try {
    for (let hasLed = false; !context.signal.aborted; hasLed = true) {
      control?.waits();
      const lease = await acquireLease(leasePathOf(described), {
        clock,
        signal: context.signal,
        onWait: ({ pid, host }) =>
          logger.info(
            { pid, host },
            `Process ${pid} on ${host} orchestrates this fleet: waiting until it ends.`,
          ),
        // A disk that is full for a while is no reason to leave the fleet alone for good.
        ...(hasLed && { onTrouble: (error) => logger.error({}, `${error.message} It is tried on.`) }),
      });
      const signal = AbortSignal.any([context.signal, lease.lost]);
      control?.leads(lease.record);
      try {
        const before = await recordBefore(described.state, logger);
        await runFleet({
          members: first,
          reread: rereading(path, { file: described, members: first }, context, control?.setTokens),
          overrides: followFleetOverrides(overridesPath),
          onMembers: control?.setMembers,
          onLook: control?.onLook,
          policy,
          placement: described.utilization === undefined ? {} : { utilization: described.utilization },
          balancer,
          before,
          save: async (record) => {
            metrics.update(record);
            // Who lost the lease must not write over what its next owner wrote.
            if (lease.lost.aborted) return;
            control?.onRecord(record);
            await writeFleetRecord(described.state, record);
          },
          term: lease.term,
          clock,
          signal,
          logger,
          administrators: told,
          periodMs: described.period ?? fleetFileDefaults.periodMs,
          onDecision: (decision) => {
            metrics.count(decision);
            control?.onDecision(decision);
            process.stdout.write(`${context.json ? JSON.stringify(decision) : decisionLine(decision)}\n`);
          },
        });
      } finally {
        metrics.update(undefined);
        await lease.release();
      }
      if (!context.signal.aborted) logger.warn({}, `${String(lease.lost.reason)} Waiting for it again.`);
    }
  } catch (error) {
    // A signal is how this command ends.
    if (!(error instanceof BonsaiError && error.code === 'aborted' && context.signal.aborted)) throw error;
  } finally {
    await Promise.all([page?.close(), control?.close()]);
    if (balancer !== undefined)
      logger.info(
        {},
        `NGINX goes on with the last routes. To end it: kill -QUIT $(cat ${balancer.folder}/nginx.pid)`,
      );
  }
}

/** What the one before wrote. A state that is damaged (a power loss) is put aside: servers and balancer tell what matters. */
async function recordBefore(path: string, logger: Logger): Promise<FleetRecord | undefined> {
  try {
    return await readFleetRecord(path);
  } catch (error) {
    if (!(error instanceof BonsaiError && error.code === 'corrupt_checkpoint')) throw error;
    const aside = `${path}.damaged`;
    await rename(path, aside);
    logger.warn({}, `${error.message} It is kept as ${aside}; demand and reasons are learned anew.`);
    return undefined;
  }
}

/** `23:15:02  begin   switch mnist 3 -> 2 on edge-1: …` */
export function decisionLine({ atMs, kind, text }: FleetDecision): string {
  return `${new Date(atMs).toISOString().slice(11, 19)}  ${kind.padEnd(8)} ${text}`;
}

/** The usual one, unless the balancer is to have it. */
function freeControlPortOf({ balancer, tasks = [] }: FleetFile): number | 'default' {
  const addresses = [
    ...(typeof balancer === 'object' ? [balancer.http, balancer.grpc] : []),
    ...tasks.map(({ grpc }) => grpc),
  ];
  return addresses.some((address) => address?.endsWith(`:${DEFAULT_FLEET_CONTROL_PORT}`)) ? 0 : 'default';
}

/** How often it is looked whether a repository says something new of its tasks; the same for a bucket. */
const REPOSITORY_LOOK_MS = 15_000;
const BUCKET_LOOK_MS = 60_000;

/**
 * Reads the file anew when it changed, and from time to time what the repository says of the tasks. What shapes the loop itself needs
 * a new start, and is told.
 */
function rereading(
  path: string,
  before: { readonly file: FleetFile; readonly members: FleetMembers },
  context: Context,
  setTokens: ((tokens: readonly string[]) => void) | undefined,
): FleetOptions['reread'] {
  const first = before.file;
  let seen: string | undefined;
  const changedTasks = watchTasks(before, context);
  const versionOf = async () => {
    const { mtimeMs, size } = await stat(path);
    return `${mtimeMs}/${size}`;
  };
  return async () => {
    const version = await versionOf();
    const isChanged = seen !== undefined && seen !== version;
    seen = version;
    if (!isChanged) return changedTasks.next();
    const file = await readFleetFile(path);
    for (const key of ['state', 'policy', 'utilization', 'period', 'balancer', 'tls'] as const)
      if (JSON.stringify(file[key]) !== JSON.stringify(first[key]))
        stderrLogger().warn(
          { field: key },
          `"${key}" of ${path} has changed: that counts from the next start on.`,
        );
    const { members, tokens } = await membersOf(file, context);
    setTokens?.(tokens);
    changedTasks.goOnFrom({ file, members });
    return members;
  };
}

/** What a repository says of the tasks, looked at beside the loop: a store that does not answer must not hold that up. */
export function watchTasks(
  from: { readonly file: FleetFile; readonly members: FleetMembers },
  context: Context,
) {
  const quiet = { ...context, progress: silentProgress };
  let { file, members } = from;
  let lookedMs = context.clock.nowMs();
  let looking: Promise<void> | undefined;
  let found: FleetMembers | undefined;
  let failure: unknown;
  const look = async () => {
    const given = file;
    const read = await membersOf(given, quiet);
    if (given === file && JSON.stringify(read.members.tasks) !== JSON.stringify(members.tasks))
      found = read.members;
    failure = undefined;
  };
  return {
    /** What was found since; undefined: nothing new. @throws what reading threw */
    async next(): Promise<FleetMembers | undefined> {
      const periodMs = isS3Url(file.repository) ? BUCKET_LOOK_MS : REPOSITORY_LOOK_MS;
      if (looking === undefined && context.clock.nowMs() - lookedMs >= periodMs) {
        lookedMs = context.clock.nowMs();
        looking = look()
          .catch((error) => {
            failure = error;
          })
          .finally(() => {
            looking = undefined;
          });
      }
      if (failure !== undefined) throw failure;
      members = found ?? members;
      const next = found;
      found = undefined;
      return next;
    },
    goOnFrom(next: { readonly file: FleetFile; readonly members: FleetMembers }) {
      ({ file, members } = next);
      found = undefined;
      failure = undefined;
    },
  };
}

/**
 * Who belongs to a fleet, with what its repository says of its tasks now, and the administration tokens of its servers.
 * @throws BonsaiError `invalid_config`, `corrupt_repository`; InvalidArgumentError for a token that cannot be read
 */
export async function membersOf(
  file: FleetFile,
  context: Context,
): Promise<{ readonly members: FleetMembers; readonly tokens: readonly string[] }> {
  const repository = await descriptionsOf(file.repository, context);
  const inRepository = await listTasks(repository);
  const tasks =
    file.tasks ?? inRepository.map((name) => ({ name }) as NonNullable<FleetFile['tasks']>[number]);
  if (tasks.length === 0)
    throw new InvalidArgumentError(`There is no task in the repository ${file.repository}.`);
  for (const { name } of tasks) {
    if (inRepository.includes(name)) continue;
    throw new BonsaiError(
      'invalid_config',
      `${file.path}: the repository ${file.repository} has no task ${name}; it has ${inRepository.join(', ') || 'none'}.`,
    );
  }
  const tokens = await tokensOf(file.servers);
  const trust = file.tls && { ca: await readAuthorities(file.tls.ca, file.path), name: file.tls.name };
  const members: FleetMembers = {
    servers: file.servers.map((server, i) => memberOf(server, tokens[i], context, trust)),
    tasks: await Promise.all(
      tasks.map(async (task) => ({
        manifest: await readManifest(repository, task.name),
        objective: { weight: task.weight, sloMs: task.slo, minAccuracy: task['min-accuracy'] },
        replicas: task.replicas ?? fleetFileDefaults.replicas,
        servers: task.servers,
      })),
    ),
  };
  return { members, tokens: [...new Set(tokens.filter((token) => token !== undefined))] };
}

/** The administration token of each server that has one. @throws InvalidArgumentError for one that cannot be read */
export function tokensOf(servers: readonly FleetFileServer[]): Promise<(string | undefined)[]> {
  return Promise.all(servers.map((server) => server['token-file'] && readToken(server['token-file'])));
}

/** @throws BonsaiError `invalid_config` for a file that holds no certificate */
async function readAuthorities(path: string, file: string): Promise<string> {
  const fail = (problem: string, cause: unknown) =>
    new BonsaiError('invalid_config', `${file}: tls.ca ${path} ${problem}`, { cause });
  let pem: string;
  try {
    pem = await readFile(path, 'utf8');
  } catch (cause) {
    throw fail(`cannot be read: ${systemReason(cause)}.`, cause);
  }
  try {
    new X509Certificate(pem);
  } catch (cause) {
    throw fail(`holds no certificate as PEM: ${messageOf(cause)}.`, cause);
  }
  return pem;
}

/** A server as the loop knows it. */
export function memberOf(
  server: FleetFileServer,
  token: string | undefined,
  { clock }: Context,
  trust?: TlsTrust,
): FleetServer {
  const name = serverNameOf(server);
  const { url, kind = 'bonsai', cpus } = server;
  const metricsUrl = metricsOf(server);
  return {
    name,
    identity: JSON.stringify([kind, url, metricsUrl, token, cpus, trust]),
    connect: () =>
      kind === 'v2'
        ? plainV2Server({ url, clock, token, trust, name, cpuBudget: cpus! })
        : v2Server({ url, metricsUrl, clock, token, trust, name, cpuBudget: cpus }),
    http: addressOf(url),
    grpc: server.grpc,
    cpus,
    memoryBytes: server.memory,
    weight: server.weight ?? 1,
    target: server.target,
    canLoad: kind !== 'v2',
  };
}

async function policyOf({
  policy = fleetFileDefaults.policy,
  folder,
}: FleetFile): Promise<Policy | undefined> {
  if (policy === fleetFileDefaults.policy) return undefined;
  return isPolicyFile(policy) ? readPolicyFile(join(folder, policy)) : policyByName(policy);
}

function balancerOf({ balancer, folder, path, tasks = [], tls }: FleetFile, { clock }: Context) {
  if (balancer === undefined || balancer === 'none') return undefined;
  const own = join(folder, balancer.folder ?? `${path.replace(/^.*\//, '').replace(/\.ya?ml$/, '')}.nginx`);
  return {
    kind: 'NGINX',
    folder: own,
    ...nginxBalancer({
      folder: own,
      http: balancer.http,
      grpc: balancer.grpc,
      grpcByTask: Object.fromEntries(
        tasks.flatMap(({ name, grpc }) => (grpc === undefined ? [] : [[name, grpc]])),
      ),
      program: balancer.program,
      workers: balancer.workers,
      maxBodyBytes: balancer['max-body'],
      user: balancer.user,
      keepsConnections: balancer['keep-connections'],
      tls: tls && { caFile: tls.ca, name: tls.name! }, // Checked with the file.
      clock,
    }),
  };
}
