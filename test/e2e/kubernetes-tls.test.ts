import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { fleetReader } from '../../src/cli/kubernetes-reader.ts';
import { silentProgress } from '../../src/cli/progress.ts';
import type { KubernetesObject } from '../../src/orchestrate/adapters/kubernetes/resources.ts';
import { readTlsIdentity } from '../../src/serve/safety/tls.ts';
import { start } from '../../src/serve/server.fixture.ts';
import type { RunningServer } from '../../src/serve/server.ts';
import { type Certificate, certificate, hasOpenssl } from './certificates.fixture.ts';

const models = fileURLToPath(new URL('../../zoo', import.meta.url));
const TOKEN = 'administration';
const NAME = 'edge.example';
const why = hasOpenssl ? '' : ' (left out: there is no openssl here; Debian: openssl)';

describe.skipIf(!hasOpenssl)(`a Fleet that speaks TLS to its servers${why}`, () => {
  let folder: string;
  let ca: string;
  const servers: RunningServer[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-kubernetes-tls-'));
    await writeFile(join(folder, 'token'), TOKEN);
    const authority = await certificate(folder, 'authority.example');
    ca = await readFile(authority.certFile, 'utf8');
    for (const own of [await certificate(folder, NAME, authority), await certificate(folder, NAME)])
      servers.push(await serve(own));
  });
  afterAll(async () => {
    await Promise.all(servers.map((server) => server.close()));
    await rm(folder, { recursive: true, force: true });
  });

  const serve = async ({ certFile, keyFile }: Certificate) =>
    start(join(models, 'models'), {
      modelControl: 'explicit',
      loadModels: [],
      tokens: { inference: undefined, administration: [TOKEN] },
      tls: await readTlsIdentity({ certFile, keyFile }),
    });

  /** What the controller makes of a Fleet whose pods are the servers. */
  async function membersOf(spec: object) {
    const context = {
      clock: systemClock,
      progress: silentProgress,
      signal: new AbortController().signal,
      json: true,
      result: () => {},
    };
    const reader = fleetReader(
      { models, tokenFile: join(folder, 'token'), image: 'bonsai:test', tokenSecret: 'token' },
      context,
    );
    const fleet: KubernetesObject = {
      apiVersion: 'bonsai.dev/v1alpha1',
      kind: 'Fleet',
      metadata: { name: 'edge', namespace: 'shop' },
      spec: {
        repository: 'models',
        volume: { persistentVolumeClaim: { claimName: 'models' } },
        pools: [{ name: 'small', replicas: 2, cpus: 1, memory: '512MiB' }],
        ...spec,
      },
    };
    const pods = servers.map(({ ports }, i) => ({
      name: `small-${i}`,
      pool: 'small',
      http: `127.0.0.1:${ports.http}`,
      grpc: `127.0.0.1:${ports.http}`,
      metrics: `127.0.0.1:${ports.metrics}`,
    }));
    return (await reader.members(fleet, [], pods)).members.servers;
  }

  async function observe(spec: object): Promise<(string | boolean)[]> {
    return Promise.all(
      (await membersOf(spec)).map(async (member) => {
        const adapter = member.connect();
        try {
          await adapter.observe(AbortSignal.timeout(20_000));
          return true;
        } catch (thrown) {
          return String(thrown);
        } finally {
          await adapter.close();
        }
      }),
    );
  }

  test('believes those whose certificate is by its authority and for its name, and no others', async () => {
    const tls = { ca, name: NAME, secret: 'edge-tls' };
    expect(await observe({ tls })).toEqual([true, expect.stringMatching(/self-signed certificate/)]);
    expect(await observe({ tls: { ...tls, name: 'other.example' } })).toEqual([
      expect.stringMatching(/other\.example/),
      expect.stringMatching(/self-signed certificate/),
    ]);
  });

  test('connects anew when the certificates that it believes are other ones', async () => {
    const tls = { ca, name: NAME, secret: 'edge-tls' };
    const foreign = await readFile((await certificate(folder, NAME)).certFile, 'utf8');
    const [before] = await membersOf({ tls });
    const [same] = await membersOf({ tls });
    const [after] = await membersOf({ tls: { ...tls, ca: foreign } });
    expect(same!.identity).toBe(before!.identity);
    expect(after!.identity).not.toBe(before!.identity);
  });
});
