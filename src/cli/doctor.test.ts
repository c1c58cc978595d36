import { execFile } from 'node:child_process';
import { mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { writeConstantFamily } from '../../test/constant-family.fixture.ts';
import { start } from '../serve/server.fixture.ts';
import { checkNode } from './doctor/engine.ts';
import type { Finding } from './doctor/finding.ts';
import { checkFolder } from './doctor/folders.ts';
import { checkMemory, checkOpenFiles, LEAST_MEMORY_BYTES, memoryHere } from './doctor/limits.ts';
import { checkPorts } from './doctor/ports.ts';
import { checkCpuBudget, checkInstructions, checkPriority } from './doctor/processor.ts';
import { checkPrograms } from './doctor/programs.ts';
import { checkRepository } from './doctor/repository.ts';
import { findingsText } from './doctor.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-doctor-test-'));
});
afterEach(() => rm(folder, { recursive: true }));

interface Diagnosis {
  readonly code: number;
  readonly ok: boolean;
  readonly findings: readonly Finding[];
}

/** The command as a user runs it, on ports that the system gives unless told otherwise. */
function doctor(args: readonly string[], shell?: string): Promise<Diagnosis> {
  const free = ['--port', '0', '--grpc-port', '0', '--metrics-port', '0', '--control-port', '0'];
  const command = [process.execPath, main, 'doctor', ...free, '--json', ...args];
  const [program, programArgs] =
    shell === undefined
      ? [command[0]!, command.slice(1)]
      : ['sh', ['-c', `${shell}; exec "$@"`, 'sh', ...command]];
  return new Promise((resolve) => {
    execFile(program, programArgs, { cwd: folder }, (error, stdout) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, ...JSON.parse(stdout) });
    });
  });
}

const named = (findings: readonly Finding[], name: string) =>
  findings.find((finding) => finding.name === name)!;

async function listening(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

describe('bonsai doctor', () => {
  it('finds that the engine, the decoder and Node.js work where the tests run, and leaves nothing behind', async () => {
    const { code, ok, findings } = await doctor([]);
    expect([code, ok]).toEqual([0, true]);
    for (const name of ['Node.js', 'ONNX Runtime', 'block size', 'image decoder', 'folder .bonsai'])
      expect(named(findings, name), name).toMatchObject({ status: 'ok' });
    expect(await readdir(folder)).toEqual([]);
  });

  it('fails with exit code 1 for a port that another program has, and says which option chooses another', async () => {
    const other = createServer((_, response) => response.end('not Bonsai'));
    const port = await listening(other);
    try {
      const { code, ok, findings } = await doctor(['--port', String(port)]);
      expect([code, ok]).toEqual([1, false]);
      expect(named(findings, `port ${port}`)).toMatchObject({
        status: 'fail',
        found: expect.stringContaining('in use by another program'),
        advice: expect.stringContaining('--port'),
      });
    } finally {
      other.close();
    }
  });

  it.skipIf(process.platform !== 'linux')(
    'warns of too few open files, as the process really may have',
    async () => {
      const { code, findings } = await doctor([], 'ulimit -n 256');
      expect(code).toBe(0);
      expect(named(findings, 'open files')).toMatchObject({
        status: 'warn',
        found: expect.stringMatching(/256/),
      });
    },
  );

  it.skipIf(process.platform !== 'linux')('counts the CPUs that affinity leaves', async () => {
    const { findings } = await doctor([], 'taskset -p -c 0 $$ >/dev/null');
    expect(named(findings, 'CPU budget').found).toMatch(/^[\d.]+ CPUs? \(.*1 inferences at a time/);
  });

  it('names the damaged version of a repository and fails, and finds a sound one right', async () => {
    await writeConstantFamily(folder, 'digits', [
      [0.9, 10],
      [0.8, 20],
    ]);
    const before = await checkRepository(folder);
    expect(before[0]).toMatchObject({ status: 'ok', found: expect.stringContaining('2 versions in 1 task') });
    // The profiles of the fixture are of a machine that does not exist.
    expect(named(before, 'profiles of digits')).toMatchObject({
      status: 'warn',
      advice: expect.stringContaining(`bonsai profile ${folder} --task digits`),
    });
    const file = await open(join(folder, 'digits/2/model.onnx'), 'r+');
    await file.write(Buffer.from([0xff]), 0, 1, 20);
    await file.close();
    const { code, findings } = await doctor([folder]);
    expect(code).toBe(1);
    expect(named(findings, `repository ${folder}`)).toMatchObject({
      status: 'fail',
      found: expect.stringMatching(/1 of 2 entries are damaged\. digits\/2: /),
    });
    await writeFile(join(folder, 'digits/bonsai.json'), '{');
    expect((await checkRepository(folder))[0]).toMatchObject({
      status: 'fail',
      found: expect.stringContaining('is not JSON'),
    });
  });

  it('fails for a repository that is not there and warns of an empty one', async () => {
    expect(await checkRepository(join(folder, 'absent'))).toMatchObject([
      { status: 'fail', found: expect.stringContaining('Cannot read the model repository') },
    ]);
    expect((await checkRepository(folder))[0]).toMatchObject({
      status: 'warn',
      found: 'there is nothing in it',
    });
  });
});

describe('the checks of ports', () => {
  const ports = (...numbers: readonly number[]) =>
    numbers.map((port, i) => ({ port, use: 'tests', option: '--port', isFlexible: i > 0 }));

  it('know a Bonsai server, which is no reason to fail', async () => {
    await writeConstantFamily(folder, 'digits', [[0.9, 10]]);
    const server = await start(folder);
    try {
      const port = Number(new URL(server.httpUrl).port);
      expect(await checkPorts('127.0.0.1', ports(port))).toMatchObject([
        { status: 'warn', found: `in use; a Bonsai server runs on ${port}` },
      ]);
    } finally {
      await server.close();
    }
  });

  it('warn where the server takes another one by itself, and fail for an address of another machine', async () => {
    const other = createServer();
    const port = await listening(other);
    try {
      expect(await checkPorts('127.0.0.1', ports(0, port))).toMatchObject([
        { status: 'ok' },
        { status: 'warn' },
      ]);
    } finally {
      other.close();
    }
    // Of the block for documentation (RFC 5737), which no machine has.
    expect(await checkPorts('192.0.2.1', ports(0))).toMatchObject([
      { status: 'fail', found: expect.stringContaining('Cannot listen on 192.0.2.1') },
    ]);
  });
});

describe('the checks of folders', () => {
  it('take what can be written or made, and leave no trace', async () => {
    expect(await checkFolder({ path: join(folder, 'a/b'), use: 'Caches', option: '--work' })).toMatchObject({
      status: 'ok',
      found: expect.stringContaining(`can be made in ${folder}`),
    });
    expect(await readdir(folder)).toEqual([]);
  });

  it.skipIf(process.platform !== 'linux')('fail where nothing can be written, even for root', async () => {
    expect(await checkFolder({ path: '/proc/bonsai', use: 'Caches', option: '--work' })).toMatchObject({
      status: 'fail',
      found: expect.stringMatching(/^Cannot write \/proc\/bonsai/),
      advice: expect.stringContaining('--work'),
    });
    expect(
      await checkFolder({ path: '/proc', use: 'States', option: 'state', isOptional: true }),
    ).toMatchObject({ status: 'warn' });
  });

  it('fail where a file is in the place of the folder', async () => {
    await writeFile(join(folder, 'file'), '');
    expect(
      await checkFolder({ path: join(folder, 'file', 'x'), use: 'Caches', option: '--work' }),
    ).toMatchObject({ status: 'fail' });
  });
});

describe('the checks of the machine', () => {
  it.each([
    ['20.19.0', 'ok'],
    ['20.18.9', 'fail'],
    ['18.20.4', 'fail'],
    ['22.0.0', 'ok'],
  ])('judge Node.js %s as %s where 20.19 is needed', (version, status) => {
    expect(checkNode(version, '>=20.19')).toMatchObject({ status });
  });

  it('read the features of x86-64 and arm64 processors', () => {
    const server = 'flags\t\t: fpu avx2 fma avx512f avx512_vnni\n';
    expect(checkInstructions('x64', server, 'A CPU')).toEqual({
      name: 'CPU',
      status: 'ok',
      found: 'A CPU (x64): AVX2, AVX-512, VNNI',
    });
    expect(checkInstructions('x64', 'flags\t\t: fpu sse4_2\n', 'Old')).toMatchObject({
      status: 'warn',
      advice: expect.stringMatching(/Without AVX2.*INT8/),
    });
    // A Raspberry Pi 4: Cortex-A72.
    expect(checkInstructions('arm64', 'Features\t: fp asimd evtstrm crc32 cpuid\n', '')).toMatchObject({
      status: 'ok',
      found: 'unknown model (arm64): NEON, no dot product',
      advice: expect.stringContaining('INT8'),
    });
  });

  it('warn of fractions of a CPU', () => {
    expect(checkCpuBudget(4, 4, 4)).toMatchObject({ status: 'ok', found: expect.stringContaining('4 CPUs') });
    expect(checkCpuBudget(4, 2, 0.5)).toMatchObject({
      status: 'warn',
      found:
        '0.5 CPUs (4 in the machine, 2 by affinity, 0.5 by the quota of the control group): 1 inferences at a time',
      advice: expect.stringContaining('whole CPU'),
    });
    expect(checkCpuBudget(4, 4, 1.5)).toMatchObject({
      status: 'warn',
      advice: expect.stringContaining('fraction'),
    });
  });

  it('read the memory of this machine, and warn where it or its limit is small', () => {
    const here = memoryHere();
    expect(here.availableBytes).toBeGreaterThan(0);
    expect(here.availableBytes).toBeLessThanOrEqual(here.totalBytes);
    const [large, small] = [2 ** 34, LEAST_MEMORY_BYTES / 2];
    expect(checkMemory({ totalBytes: large, availableBytes: large })).toMatchObject({ status: 'ok' });
    expect(checkMemory({ totalBytes: large, limitBytes: small, availableBytes: small })).toMatchObject({
      status: 'warn',
      found: expect.stringContaining('256 MiB by the limit of the control group'),
    });
    expect(checkMemory({ totalBytes: large, availableBytes: small })).toMatchObject({
      status: 'warn',
      advice: expect.stringContaining('Others hold'),
    });
  });

  it('know limits that are none, and systems that do not tell', () => {
    const limits = (value: string) =>
      `Limit   Soft   Hard\nMax open files            ${value}  ${value}  files\n`;
    expect(checkOpenFiles(limits('unlimited'))).toMatchObject({ status: 'ok' });
    expect(checkOpenFiles(limits('1024'))).toMatchObject({ status: 'ok' });
    expect(checkOpenFiles(limits('1023'))).toMatchObject({ status: 'warn' });
    expect(checkPriority(false)).toMatchObject({
      status: 'warn',
      advice: expect.stringContaining('LimitNICE'),
    });
  });

  it('say where a program that is not needed comes from, and the version of one that is there', () => {
    const program = { name: 'X', use: 'only for X', debian: 'x', arguments: ['--version'] };
    expect(
      checkPrograms([
        { ...program, command: process.execPath },
        { ...program, command: 'bonsai-no-such-program' },
      ]),
    ).toMatchObject([
      { status: 'ok', found: process.versions.node },
      { status: 'ok', found: 'not there; only for X (Debian: apt-get install x)' },
    ]);
  });

  it('are told with what to do below each', () => {
    expect(
      findingsText([
        { name: 'a', status: 'ok', found: 'good' },
        { name: 'b', status: 'fail', found: 'bad', advice: 'Repair it.' },
      ]),
    ).toBe(
      'ok    a               good\nfail  b               bad\n      → Repair it.\n\n1 ok, 0 to look at, 1 that fails.',
    );
  });
});
