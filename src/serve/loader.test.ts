import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../base/clock.ts';
import { float32Tensor, floatsOf, int64Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import type { StoredVersion } from '../repository/store.ts';
import { InlineLane } from './inline-lane.ts';
import { type LoadedNetwork, Loader } from './loader.ts';
import { WorkerHandle } from './worker-handle.ts';

/** Two networks, which give the double and the triple of a number, and one that is none. */
let folder: string;
let versions: StoredVersion[];
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-loader-'));
  versions = [];
  for (const factor of [2, 3]) {
    const b = new GraphBuilder('times');
    const x = b.input('x', 'float32', ['N', 1]);
    b.output(
      b.op('Mul', [x, b.initializer('factor', float32Tensor([1], [factor]))], {}, { outputs: ['y'] }),
      'float32',
      ['N', 1],
    );
    versions.push(await stored(factor, writeModel(modelOf(b.finish()))));
  }
  versions.push(await stored(4, Buffer.from('no network')));
  const b = new GraphBuilder('twelfths');
  const x = b.input('x', 'int64', ['N', 1]);
  const twelve = b.constant(int64Tensor([12]));
  b.output(b.op('Div', [twelve, x], {}, { outputs: ['y'] }), 'int64', ['N', 1]);
  versions.push(await stored(5, writeModel(modelOf(b.finish()))));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function stored(version: number, bytes: Uint8Array): Promise<StoredVersion> {
  const modelPath = join(folder, `${version}.onnx`);
  await writeFile(modelPath, bytes);
  return { version, modelPath, sizeBytes: bytes.byteLength, identity: String(version) };
}

async function timesSeven({ lane }: LoadedNetwork): Promise<number> {
  const { outputs } = await lane.run([[float32Tensor([1, 1], [7])]]);
  return floatsOf(outputs[0]!)[0]!;
}

describe.each([
  ['where priorities can be raised', true],
  ['where they cannot', false],
])('the loader, %s,', (_where, isPrivileged) => {
  const starts = vi.spyOn(WorkerHandle, 'start');
  const opens = vi.spyOn(InlineLane, 'open');
  const rehearsals = vi.spyOn(WorkerHandle.prototype, 'rehearse');
  const loaders: Loader[] = [];
  const networks: LoadedNetwork[] = [];
  beforeEach(() => vi.clearAllMocks());
  afterEach(async () => {
    await Promise.all(networks.splice(0).map(({ lane }) => lane.close()));
    await Promise.all(loaders.splice(0).map((loader) => loader.close()));
  });

  function loaderOf(inlineBelowMs: number): Loader {
    const logger = pino({ level: 'silent' });
    const options = { spareCount: 0, logger, clock: systemClock, isPrivileged, inlineBelowMs };
    const loader = new Loader(options);
    loaders.push(loader);
    return loader;
  }

  async function load(loader: Loader, index: number): Promise<LoadedNetwork> {
    const network = await loader.load(versions[index]!);
    networks.push(network);
    return network;
  }

  const optimizedFiles = () => opens.mock.calls.map(([path]) => path);

  it('rehearses networks for the thread with the sockets one after another in one thread', async () => {
    const loader = loaderOf(1000);
    expect(await timesSeven(await load(loader, 0))).toBe(14);
    const booted = starts.mock.calls.length;
    const second = await load(loader, 1);
    expect(await timesSeven(second)).toBe(21);
    expect(second.lane.isInline).toBe(true);
    expect(second.report.serviceMs).toBeLessThan(1000);
    expect(starts).toHaveBeenCalledTimes(booted);
    expect(rehearsals).toHaveBeenCalledTimes(2);
  });

  it('opens a version that comes back as it was optimised, and again where that file is gone', async () => {
    const loader = loaderOf(1000);
    await load(loader, 0);
    const cpuMs = loader.cpuMs;
    expect(await timesSeven(await load(loader, 0))).toBe(14);
    expect(rehearsals).toHaveBeenCalledTimes(1);
    expect(loader.cpuMs).toBe(cpuMs);
    await rm(optimizedFiles()[0]!);
    expect(await timesSeven(await load(loader, 0))).toBe(14);
    expect(rehearsals).toHaveBeenCalledTimes(2);
  });

  it('runs networks of longer inferences in threads of their own', async () => {
    const network = await load(loaderOf(1e-9), 1);
    expect(network.lane.isInline).toBe(false);
    expect(await timesSeven(network)).toBe(21);
  });

  it.each([1000, 0])('loads a network that zeros are not for, with a limit of %j ms', async (limitMs) => {
    const { lane } = await load(loaderOf(limitMs), 3);
    const { outputs } = await lane.run([[int64Tensor([4], [1, 1])]]);
    expect(new BigInt64Array(outputs[0]!.bytes.slice().buffer)).toEqual(BigInt64Array.of(3n));
    await expect(lane.run([[int64Tensor([0], [1, 1])]])).rejects.toMatchObject({ code: 'engine_failure' });
  });

  it('says why a network cannot be loaded, and loads the next', async () => {
    const loader = loaderOf(1000);
    await expect(load(loader, 2)).rejects.toMatchObject({ code: 'load_failed' });
    expect(await timesSeven(await load(loader, 0))).toBe(14);
  });

  it('leaves no file behind', async () => {
    const loader = loaderOf(1000);
    await load(loader, 0);
    await load(loader, 1);
    const files = optimizedFiles();
    expect(files.map((path) => existsSync(path))).toEqual([true, true]);
    await loader.close();
    expect(files.map((path) => existsSync(path))).toEqual([false, false]);
    expect((await readdir(folder)).sort()).toEqual(['2.onnx', '3.onnx', '4.onnx', '5.onnx']);
  });
});
