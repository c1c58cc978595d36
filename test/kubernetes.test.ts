import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { systemClock } from '../src/base/clock.ts';
import { fleetReader } from '../src/cli/kubernetes-reader.ts';
import { silentProgress } from '../src/cli/progress.ts';
import { ApiServer, type Stored } from '../src/orchestrate/adapters/kubernetes/api-server.fixture.ts';
import { KubernetesClient } from '../src/orchestrate/adapters/kubernetes/client.ts';
import { runController } from '../src/orchestrate/adapters/kubernetes/controller.ts';
import { silentLogger } from '../src/orchestrate/logger.ts';
import { call, start } from '../src/serve/server.fixture.ts';
import type { RunningServer } from '../src/serve/server.ts';

const models = fileURLToPath(new URL('../zoo', import.meta.url));
const TOKEN = 'administration';
const NAMESPACE = 'edge';
const of = (group: string, plural: string) => `${group}/namespaces/${NAMESPACE}/${plural}`;
const FLEETS = of('/apis/bonsai.dev/v1alpha1', 'fleets');
const TASKS = of('/apis/bonsai.dev/v1alpha1', 'tasks');
const DEPLOYMENTS = of('/apis/apps/v1', 'deployments');
const BUDGETS = of('/apis/policy/v1', 'poddisruptionbudgets');
const SERVICES = of('/api/v1', 'services');
const CONFIG_MAPS = of('/api/v1', 'configmaps');
const SLICES = of('/apis/discovery.k8s.io/v1', 'endpointslices');
const EVENTS = of('/apis/events.k8s.io/v1', 'events');

/** The controller against an API server in memory, with real servers as its pods. */
describe('a fleet on Kubernetes', { timeout: 150_000 }, () => {
  const api = new ApiServer();
  const servers = new Map<string, RunningServer>();
  let folder: string;
  let url: string;
  const controllers: Controller[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-kubernetes-'));
    await writeFile(join(folder, 'token'), `${TOKEN}\n`);
    url = await api.start();
  });
  afterAll(async () => {
    await Promise.all(controllers.map((controller) => controller.stop()));
    await Promise.all([...servers.values()].map((server) => server.close()));
    await api.stop();
    await rm(folder, { recursive: true, force: true });
  });

  interface Controller {
    metrics(): string;
    stop(): Promise<void>;
  }

  function control(identity: string): Controller {
    const stopping = new AbortController();
    const client = new KubernetesClient({ server: url, namespace: NAMESPACE });
    let text = () => '';
    const context = {
      clock: systemClock,
      progress: silentProgress,
      signal: stopping.signal,
      json: true,
      result: () => {},
    };
    const options = {
      models,
      tokenFile: join(folder, 'token'),
      image: 'bonsai:test',
      tokenSecret: 'bonsai-admin-token',
    };
    const done = runController({
      client,
      reader: fleetReader(options, context),
      namespace: NAMESPACE,
      ownNamespace: NAMESPACE,
      identity,
      clock: systemClock,
      logger: silentLogger,
      signal: stopping.signal,
      onMetrics: (give) => {
        text = give;
      },
      // Generous where a busy machine must not lose a lease, short where the test would wait.
      periods: {
        leaseMs: 60_000,
        leasePeriodMs: 100,
        resyncMs: 5_000,
        publishMs: 100,
        backoffMs: 50,
        recordMs: 500,
      },
    }).catch((error) => {
      if (!stopping.signal.aborted) throw error;
    });
    const controller = {
      metrics: () => text(),
      stop: async () => {
        stopping.abort();
        await done;
        await client.close();
      },
    };
    controllers.push(controller);
    return controller;
  }

  /** What kubelet and the cluster do of a pod: start it, and tell its address. */
  async function startPod(name: string, service: string): Promise<void> {
    const server = await start(join(models, 'models'), {
      modelControl: 'explicit',
      loadModels: [],
      grpcPort: 0,
      tokens: { inference: undefined, administration: [TOKEN] },
    });
    servers.set(name, server);
    tellPod(name, service, true);
  }

  function tellPod(name: string, service: string, isReady: boolean): void {
    const { http, grpc, metrics } = servers.get(name)!.ports;
    api.put(SLICES, {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: {
        name: `${service}-${name}`,
        namespace: NAMESPACE,
        labels: { 'kubernetes.io/service-name': service },
      },
      addressType: 'IPv4',
      ports: [
        { name: 'http', port: http },
        { name: 'grpc', port: grpc },
        { name: 'metrics', port: metrics },
      ],
      endpoints: [
        { addresses: ['127.0.0.1'], conditions: { ready: isReady }, targetRef: { kind: 'Pod', name } },
      ],
    });
  }

  const eventually = <T>(check: () => T | Promise<T>) =>
    vi.waitFor(check, { timeout: 120_000, interval: 100 });
  const condition = (object: Stored | undefined, type: string) =>
    object?.status?.conditions?.find((own: { type: string }) => own.type === type);
  const fleet = () => api.find(FLEETS, 'traffic');
  const endpoints = () =>
    api
      .all(SLICES)
      .filter(({ metadata }) => metadata.labels?.['kubernetes.io/service-name'] === 'traffic-mnist-task')
      .flatMap(({ ports }) =>
        ports.map(({ name, port }: { name: string; port: number }) => `${name} ${port}`),
      )
      .sort();

  test('makes its servers, by what the Fleet says', async () => {
    // The first writing is refused: somebody else was quicker.
    let conflicts = 1;
    api.fail = (method, path) =>
      method === 'PATCH' && path === `${FLEETS}/traffic` && conflicts-- > 0 ? 409 : undefined;
    control('first');
    api.put(FLEETS, {
      apiVersion: 'bonsai.dev/v1alpha1',
      kind: 'Fleet',
      metadata: { name: 'traffic', namespace: NAMESPACE },
      spec: {
        repository: 'models',
        volume: { persistentVolumeClaim: { claimName: 'models' } },
        pools: [{ name: 'small', replicas: 2, cpus: 1, memory: '512MiB', nodeSelector: { size: 'small' } }],
      },
    });
    const deployment = await eventually(() => {
      const found = api.find(DEPLOYMENTS, 'traffic-small');
      expect(found).toBeDefined();
      return found!;
    });
    const [container] = deployment.spec.template.spec.containers;
    expect(deployment.spec).toMatchObject({
      replicas: 2,
      selector: { matchLabels: { 'bonsai.dev/fleet': 'traffic', 'bonsai.dev/pool': 'small' } },
      template: { spec: { nodeSelector: { size: 'small' }, automountServiceAccountToken: false } },
    });
    expect(container.args.slice(0, 2)).toEqual(['serve', '/models/models']);
    // 512 MiB of networks and as much for the server itself.
    expect(container.resources.limits).toEqual({ cpu: '1000m', memory: String(1024 * 1024 * 1024) });
    await eventually(() => {
      expect(api.find(SERVICES, 'traffic-small')?.spec.clusterIP).toBe('None');
      expect(api.find(BUDGETS, 'traffic-small')?.spec.maxUnavailable).toBe(1);
      expect(fleet()!.metadata.finalizers).toEqual(['bonsai.dev/controller']);
      expect(condition(fleet(), 'Accepted')?.status).toBe('True');
      expect(condition(fleet(), 'Ready')).toMatchObject({
        status: 'False',
        reason: 'NoTasks',
        observedGeneration: 1,
      });
    });
    api.fail = undefined;
  });

  test('serves a Task by the pods that are ready, and routes its Service to them', async () => {
    api.put(TASKS, {
      apiVersion: 'bonsai.dev/v1alpha1',
      kind: 'Task',
      metadata: { name: 'mnist', namespace: NAMESPACE },
      spec: { fleet: 'traffic', slo: '2s', replicas: 2, servers: ['small'] },
    });
    await Promise.all([startPod('small-1', 'traffic-small'), startPod('small-2', 'traffic-small')]);
    await eventually(() => {
      expect(condition(api.find(TASKS, 'mnist'), 'Ready')).toMatchObject({
        status: 'True',
        reason: 'Serving',
      });
      expect(api.find(TASKS, 'mnist')!.status).toMatchObject({ servers: 2, observedGeneration: 1 });
      expect(condition(fleet(), 'Ready')).toMatchObject({ status: 'True' });
      expect(fleet()!.status).toMatchObject({ serversReady: '2/2', tasksReady: '1/1' });
    });
    for (const server of servers.values())
      expect((await call(server, 'GET', '/v2/models/mnist/ready')).status).toBe(200);
    const ports = [...servers.values()].flatMap(({ ports: { http, grpc } }) => [
      `http ${http}`,
      `grpc ${grpc}`,
    ]);
    await eventually(() => expect(endpoints()).toEqual(ports.sort()));
    const service = api.find(SERVICES, 'traffic-mnist-task')!;
    expect([service.spec.selector, service.spec.ports.map(({ port }: { port: number }) => port)]).toEqual([
      undefined,
      [8000, 8001],
    ]);
    expect(controllers[0]!.metrics()).toContain(
      'bonsai_fleet_wanted_replicas{namespace="edge",fleet="traffic",pool="small",for="demand"} 1',
    );
    await eventually(() => {
      expect(api.all(EVENTS).map(({ reason }) => reason)).toContain('Planned');
      expect(
        JSON.parse(api.find(CONFIG_MAPS, 'traffic-fleet-state')!.data['record.json']).servers,
      ).toHaveLength(2);
    });
  });

  test('makes again what somebody changed or removed', async () => {
    api.remove(DEPLOYMENTS, 'traffic-small');
    await eventually(() => expect(api.find(DEPLOYMENTS, 'traffic-small')).toBeDefined());
    const { spec, ...rest } = api.find(DEPLOYMENTS, 'traffic-small')!;
    api.put(DEPLOYMENTS, { ...rest, spec: { ...spec, replicas: 7 } });
    await eventually(() => expect(api.find(DEPLOYMENTS, 'traffic-small')!.spec.replicas).toBe(2));
    // Also what a pool has left that is gone.
    const grown = fleet()!;
    const pools = [...grown.spec.pools, { ...grown.spec.pools[0], name: 'large', replicas: 0 }];
    api.put(FLEETS, { ...grown, spec: { ...grown.spec, pools } });
    await eventually(() => expect(api.find(BUDGETS, 'traffic-large')).toBeDefined());
    api.put(FLEETS, { ...fleet()!, spec: grown.spec });
    await eventually(() => {
      for (const collection of [DEPLOYMENTS, BUDGETS, SERVICES])
        expect(api.find(collection, 'traffic-large')).toBeUndefined();
      expect(api.find(DEPLOYMENTS, 'traffic-small')).toBeDefined();
    });
    // An autoscaler's number stays once the Fleet does not give one.
    const before = fleet()!;
    const [{ replicas: _, ...pool }] = before.spec.pools;
    api.put(FLEETS, { ...before, spec: { ...before.spec, pools: [pool] } });
    const { generation } = fleet()!.metadata;
    await eventually(() => expect(condition(fleet(), 'Accepted').observedGeneration).toBe(generation));
    const scaled = api.find(DEPLOYMENTS, 'traffic-small')!;
    expect(scaled.spec.replicas).toBe(2);
    api.put(DEPLOYMENTS, { ...scaled, spec: { ...scaled.spec, replicas: 5 } });
    await controllers[0]!.stop();
    expect(api.find(DEPLOYMENTS, 'traffic-small')!.spec.replicas).toBe(5);
  });

  test('goes on under the next controller, which waited for the lease, through cut and forgotten watches', async () => {
    control('second');
    await eventually(() =>
      expect(
        api.find(of('/apis/coordination.k8s.io/v1', 'leases'), 'bonsai-controller')!.spec.holderIdentity,
      ).toBe('second'),
    );
    const standby = control('third');
    await eventually(() => expect(api.watching).toBeGreaterThanOrEqual(4));
    api.cutWatches();
    api.expireWatches();
    // A server that fails is routed around.
    await servers.get('small-2')!.close();
    const { http, grpc } = servers.get('small-1')!.ports;
    await eventually(() => {
      expect(fleet()!.status.servers).toContainEqual(
        expect.objectContaining({ name: 'small-2', health: 'down' }),
      );
      expect(endpoints()).toEqual([`grpc ${grpc}`, `http ${http}`]);
    });
    await controllers[1]!.stop();
    await eventually(() => expect(standby.metrics()).toContain('bonsai_fleet_server_up'));
  });

  test('says in conditions what cannot be done, and leaves all as it was', async () => {
    const before = fleet()!;
    api.put(FLEETS, { ...before, spec: { ...before.spec, utilization: 2 } });
    await eventually(() =>
      expect(condition(fleet(), 'Accepted')).toMatchObject({
        status: 'False',
        reason: 'Invalid',
        message: expect.stringContaining('spec.utilization is 2; expected a share of the CPU'),
      }),
    );
    expect(condition(fleet(), 'Ready').status).toBe('True');
    api.put(FLEETS, { ...fleet()!, spec: before.spec });
    await eventually(() => expect(condition(fleet(), 'Accepted').status).toBe('True'));
    const task = (name: string, spec: object) =>
      api.put(TASKS, {
        apiVersion: 'bonsai.dev/v1alpha1',
        kind: 'Task',
        metadata: { name, namespace: NAMESPACE },
        spec,
      });
    task('unknown', { fleet: 'traffic' });
    task('twin', { fleet: 'traffic', name: 'mnist' });
    task('lost', { fleet: 'none' });
    task('astray', { fleet: 'traffic', name: 'cifar10', servers: ['large'] });
    const why = (name: string) => condition(api.find(TASKS, name), 'Accepted')?.message;
    await eventually(() => {
      expect(why('unknown')).toContain('The repository has no task unknown; it has ');
      expect(why('twin')).toBe('Task mnist is about mnist already, and is older.');
      expect(why('lost')).toBe('There is no Fleet none in edge.');
      expect(why('astray')).toContain('Fleet edge/traffic has no pool and no server large');
    });
    for (const name of ['unknown', 'twin', 'lost', 'astray']) api.remove(TASKS, name);
    await eventually(() => expect(api.all(TASKS).map(({ metadata }) => metadata.name)).toEqual(['mnist']));
  });

  test('lets go of a Task that is removed, then of the Fleet with all that was made for it', async () => {
    api.remove(TASKS, 'mnist');
    await eventually(() => expect(api.find(TASKS, 'mnist')).toBeUndefined());
    expect((await call(servers.get('small-1')!, 'GET', '/v2/models/mnist/ready')).status).toBe(400);
    await eventually(() => expect(endpoints()).toEqual([]));
    api.remove(FLEETS, 'traffic');
    await eventually(() => {
      expect(fleet()).toBeUndefined();
      for (const collection of [DEPLOYMENTS, BUDGETS, SERVICES, CONFIG_MAPS])
        expect(api.all(collection)).toEqual([]);
    });
  });

  test('asked for nothing that its rights in deploy/ do not give, and has no rights that it does not need', async () => {
    const rendered = await readFile(new URL('../deploy/kubernetes/controller.yaml', import.meta.url), 'utf8');
    const rights = parseAllDocuments(rendered)
      .map((document) => document.toJS() as Stored)
      .filter(({ kind }) => kind === 'Role')
      .flatMap(({ rules }) => rules as Record<'apiGroups' | 'resources' | 'verbs', string[]>[])
      .flatMap(({ apiGroups, resources, verbs }) =>
        apiGroups.flatMap((group) =>
          resources.flatMap((name) =>
            verbs.map((verb) => `${verb} ${[name, group].filter(Boolean).join('.')}`),
          ),
        ),
      );
    const asked = api.requests.flatMap((request) => {
      const [method, path] = request.split(/[ ?]/);
      const [, group, plural, name, part] =
        /^\/apis?\/?(?:([a-z0-9.]+)(?=\/v\w+\/))?\/?v\w+\/namespaces\/[^/]+\/([^/]+)(?:\/([^/]+))?(?:\/(status))?$/.exec(
          path!,
        )!;
      const what = [part === undefined ? plural : `${plural}/${part}`, group].filter(Boolean).join('.');
      const reading = name !== undefined ? 'get' : request.includes('watch=1') ? 'watch' : 'list';
      const verb = { GET: reading, POST: 'create', PUT: 'update', PATCH: 'patch', DELETE: 'delete' }[
        method!
      ]!;
      // What is applied and not there is created.
      return verb === 'patch' && part === undefined
        ? [`patch ${what}`, `create ${what}`]
        : [`${verb} ${what}`];
    });
    // Only merge patches go to these, and those are never created by the controller.
    const neverCreated = ['create fleets.bonsai.dev', 'create tasks.bonsai.dev'];
    const needed = new Set(asked.filter((right) => !neverCreated.includes(right)));
    // KServe is another switch of the chart; a cluster asks for these two rights where the double does not.
    const kserve = (right: string) => right.endsWith('.serving.kserve.io');
    const checkedByOthers = [
      'update fleets/finalizers.bonsai.dev',
      'create endpointslices/restricted.discovery.k8s.io',
    ];
    expect([...needed].filter((right) => !kserve(right) && !rights.includes(right))).toEqual([]);
    expect(rights.filter((right) => !needed.has(right) && !checkedByOthers.includes(right))).toEqual([]);
  });
});
