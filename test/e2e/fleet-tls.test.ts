import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { Client, credentials } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { readFleetRecord } from '../../src/orchestrate/fleet/record.ts';
import { ModelReadyRequestSchema, ModelReadyResponseSchema } from '../../src/serve/grpc/inference_pb.ts';
import { type Certificate, certificate, hasOpenssl } from './certificates.fixture.ts';
import { freePorts } from './free-ports.fixture.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const main = join(root, 'dist/cli/main.js');
const hasPrograms = hasOpenssl && spawnSync('nginx', ['-v']).error === undefined;
const why = hasPrograms ? '' : ' (left out: nginx or openssl is missing; Debian: nginx-light, openssl)';
const NAME = 'edge.example';

describe.skipIf(!hasPrograms)(`a fleet that speaks TLS${why}`, () => {
  let folder: string;
  const children: ChildProcess[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-fleet-tls-'));
    await chmod(folder, 0o711);
  });

  afterAll(async () => {
    for (const child of children) child.kill('SIGKILL');
    const pid = Number(await readFile(join(folder, 'fleet.nginx/nginx.pid'), 'utf8').catch(() => ''));
    if (pid > 0) process.kill(pid, 'SIGQUIT');
    await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  });

  async function serve(ports: readonly number[], { certFile, keyFile }: Certificate): Promise<void> {
    const [http, grpc, metrics] = ports.map(String);
    const child = spawn(
      process.execPath,
      [
        ...[main, 'serve', join(root, 'zoo/models'), '--json', '--log-level', 'error', '--slots', '1'],
        ...['--port', http!, '--grpc-port', grpc!, '--metrics-port', metrics!, '--control-port', 'off'],
        ...['--model-control-mode', 'explicit', '--load-model', 'mnist', '--initial', 'smallest'],
        ...['--tls-cert', certFile, '--tls-key', keyFile],
      ],
      { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] },
    );
    children.push(child);
    await once(createInterface(child.stdout!), 'line');
  }

  test('is looked after and asked by certificates of its authority, and by no others', async () => {
    const authority = await certificate(folder, 'authority.example');
    const [http, grpc, ...ports] = (await freePorts(8)) as [number, number, ...number[]];
    const [own, foreign] = [ports.slice(0, 3), ports.slice(3)];
    await Promise.all([
      serve(own, await certificate(folder, NAME, authority)),
      serve(foreign, await certificate(folder, NAME)),
    ]);
    const member = (name: string, [api, rpc, metrics]: readonly number[]) =>
      `  - {name: ${name}, url: "https://127.0.0.1:${api}", grpc: "127.0.0.1:${rpc}", metrics: "https://127.0.0.1:${metrics}", cpus: 1}`;
    const file = join(folder, 'fleet.yaml');
    const lines = [
      `repository: ${join(root, 'zoo/models')}`,
      `tls: {ca: ${authority.certFile}, name: ${NAME}}`,
      `balancer: {kind: nginx, http: "127.0.0.1:${http}", grpc: "127.0.0.1:${grpc}"}`,
      'servers:',
      member('own', own),
      member('foreign', foreign),
      'tasks: [{name: mnist, slo: 400ms}]',
    ];
    await writeFile(file, `${lines.join('\n')}\n`);
    children.push(
      spawn(process.execPath, [main, 'orchestrate', file, '--json', '--control-port', 'off'], {
        cwd: folder,
        stdio: 'ignore',
      }),
    );
    await vi.waitFor(
      async () => {
        const record = await readFleetRecord(join(folder, 'fleet.state.json'));
        expect(record?.servers.map(({ health }) => health)).toEqual(['up', 'down']);
        expect(record?.servers[1]?.trouble).toMatch(/self-signed certificate/);
        // Switched over TLS to the most accurate version, and asked for it over TLS.
        const { model_version } = (await answer(http)) as { model_version: string };
        expect(model_version).toBe('1');
      },
      { timeout: 90_000, interval: 500 },
    );
    expect(await isReady(`127.0.0.1:${grpc}`)).toBe(true);
  }, 120_000);
});

/** What a blank image is. */
async function answer(port: number): Promise<unknown> {
  const response = await fetch(`http://127.0.0.1:${port}/v2/models/mnist/infer`, {
    method: 'POST',
    body: JSON.stringify({
      inputs: [{ name: 'image', datatype: 'FP32', shape: [1, 1, 28, 28], data: Array(784).fill(0) }],
    }),
  });
  expect(response.status).toBe(200);
  return response.json();
}

function isReady(address: string): Promise<boolean> {
  const client = new Client(address, credentials.createInsecure());
  const request = create(ModelReadyRequestSchema, { name: 'mnist' });
  return new Promise<boolean>((resolve, reject) => {
    client.makeUnaryRequest(
      '/inference.GRPCInferenceService/ModelReady',
      (value: typeof request) => Buffer.from(toBinary(ModelReadyRequestSchema, value)),
      (bytes: Buffer) => fromBinary(ModelReadyResponseSchema, bytes),
      request,
      (error, response) => (error ? reject(error) : resolve(response!.ready)),
    );
  }).finally(() => client.close());
}
