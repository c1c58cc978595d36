import { execFile, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import pino from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../base/clock.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { digestOf } from '../repository/digest.ts';
import { modelPathOf, writeTask } from '../repository/store.ts';
import { MANIFEST_SCHEMA_VERSION } from '../repository/types.ts';
import { type RunningServer, startServer } from '../serve/server.ts';
import { fetchTask } from './remote-task.ts';
import { verifyRepository } from './repo.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-refusals-'));
});
afterAll(() => rm(folder, { recursive: true }));

function bonsai(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], { cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

/** A task of one network, y = x. */
async function writeIdentity(root: string, task: string): Promise<void> {
  const b = new GraphBuilder('identity');
  b.output(b.op('Identity', [b.input('x', 'float32', ['N'])], {}, { outputs: ['y'] }), 'float32', ['N']);
  const bytes = writeModel(modelOf(b.finish()));
  const tensor = { dtype: 'float32', shape: [-1] } as const;
  await writeTask(
    root,
    {
      schemaVersion: MANIFEST_SCHEMA_VERSION,
      task,
      inputs: [{ name: 'x', ...tensor }],
      outputs: [{ name: 'y', ...tensor }],
      variants: [
        {
          version: 1,
          digest: digestOf(bytes),
          sizeBytes: bytes.byteLength,
          accuracy: { test: 0.9, testCount: 10 },
          macs: 0,
          parameters: 0,
          lineage: {},
          profiles: {},
        },
      ],
    },
    new Map([[1, bytes]]),
  );
}

describe('before any work', () => {
  it.each([
    [['serve', '.', '--cpus', '4000'], /CPU 4000, which this machine does not have; it has 0/],
    [['port', 'x.onnx', '--data', 'mnist', '--out', 'm', '--cpus', '4000'], /it has 0/],
    [['profile', '.', '--runs', '5'], /--runs: Expected an integer from 10 to/],
    [['profile', '.', '--target', 'http://box:8000/triton'], /more than host and port/],
    [['train', '--data', 'mnist', '--out', '.'], /\. is a folder; expected the file to write/],
    [['train', '--data', 'absent', '--out', 'x.onnx', '--epochs', '6@0.5'], /such as --epochs 6@0\.5,2/],
    [['train', '--data', 'absent', '--out', 'x.onnx', '--backbone', 'vgg'], /no backbone "vgg"\. Known:/],
    [['train', '--data', 'absent', '--out', 'x.onnx', '--label-smoothing', '1'], /labelSmoothing/],
    [
      ['port', 'x.onnx', '--data', 'mnist', '--out', 'm', '--iterations', '3'],
      /--iterations does something only with --schedule linear or agp/,
    ],
    [
      ['port', 'x.onnx', '--data', 'mnist', '--out', 'm', '--distill-weight', '0.5'],
      /--distill-weight does something only with --distill or --teacher/,
    ],
    [
      ['port', '--jobs', '--data', 'mnist', '--out', 'm', '--distill', 'only', '--distill-temperature', '0'],
      /temperature is 0/,
    ],
    [
      ['port', 'x.onnx', '--data', 'mnist', '--out', 'm', '--budget', '3'],
      /--budget 3 has no unit; say 3m or 3h/,
    ],
    [['port', 'x.onnx', '--data', 'absent', '--out', 'm', '--epochs', '1@0.5'], /such as --epochs 1@0\.5,2/],
    [
      ['--config', 'absent.yaml', 'train', '--data', 'mnist', '--out', 'x.onnx'],
      /absent\.yaml cannot be read/,
    ],
  ])('%j is refused with exit code 2', async (args, complaint) => {
    const { code, stderr } = await bonsai(...args);
    expect(stderr).toMatch(complaint);
    expect(code).toBe(2);
    expect(await readdir(folder)).toEqual([]);
  });

  it('a data module is not replaced by the network that is trained on it', async () => {
    const data = join(folder, 'mine.mjs');
    await writeFile(data, 'precious');
    const { code, stderr } = await bonsai('train', '--data', data, '--out', 'mine.mjs');
    expect(stderr).toMatch(/the file that is read.*--force/);
    expect(code).toBe(2);
    expect(await readFile(data, 'utf8')).toBe('precious');
    await rm(data);
  });

  it('the unit of every default is shown', async () => {
    expect((await bonsai('serve', '--help')).stdout.replace(/\s+/g, ' ')).toMatch(
      /--max-wait <duration> .*\(default: \d+ms/,
    );
  });
});

describe('serve', () => {
  const serve = (repository: string) =>
    bonsai('serve', repository, '--port', '0', '--metrics-port', '0', '--json');

  it('refuses a repository that is empty', async () => {
    await mkdir(join(folder, 'empty'));
    const { code, stdout, stderr } = await serve('empty');
    expect(stderr).toMatch(/Nothing in empty can be served: it is empty\.\n.*bonsai port/);
    expect([code, stdout]).toEqual([1, '']);
  });

  it('says where a task or a file was named for a repository', async () => {
    await writeIdentity(join(folder, 'mistaken'), 'digits');
    const task = await serve('mistaken/digits');
    expect(task.stderr).toMatch(/mistaken\/digits is a task, .* bonsai serve mistaken\n/);
    expect(task.code).toBe(2);
    const file = await serve('mistaken/digits/1/model.onnx');
    expect(file.stderr).toMatch(/it is a file\. A network becomes a repository by bonsai port/);
    expect((await serve('nowhere')).stderr).toMatch(/nowhere: there is no such folder\. bonsai port/);
  });

  it('refuses one of which nothing can be read, with the reason of each entry', async () => {
    const root = join(folder, 'unreadable');
    await mkdir(join(root, 'notes'), { recursive: true });
    await writeIdentity(root, 'torn');
    await writeFile(join(root, 'torn', 'bonsai.json'), '{"schemaVersion":1,');
    await writeIdentity(root, 'gone');
    await rm(modelPathOf(root, 'gone', 1));
    const { code, stdout, stderr } = await serve('unreadable');
    expect(stderr).toMatch(/^ {2}gone: .*model\.onnx: is missing/m);
    expect(stderr).toMatch(/^ {2}notes: not a task/m);
    expect(stderr).toMatch(/^ {2}torn: .*bonsai\.json: is not JSON/m);
    expect([code, stdout]).toEqual([1, '']);
  });

  it('refuses one whose networks are no networks, and never says that it is ready', async () => {
    const root = join(folder, 'rubbish');
    await writeIdentity(root, 'digits');
    const path = modelPathOf(root, 'digits', 1);
    await writeFile(path, new Uint8Array((await readFile(path)).length));
    const { code, stdout, stderr } = await serve('rubbish');
    expect(stderr).toMatch(/Nothing in rubbish can be served:\n {2}digits.*: .+\n/);
    expect([code, stdout]).toEqual([1, '']);
  });
});

describe('a server that ends with its parent', () => {
  const start = async (task: string) => {
    const root = join(folder, task);
    await writeIdentity(root, task);
    const args = [main, 'serve', '--exit-with-parent', root, '--port', '0', '--metrics-port', '0', '--json'];
    const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'ignore'] });
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
    for await (const line of createInterface({ input: child.stdout }))
      if (line.startsWith('{"ready":true')) break;
    return { child, ended };
  };

  it('ends when asked to, though the parent still holds its input', async () => {
    const { child, ended } = await start('asked');
    child.kill('SIGTERM');
    expect(await ended).toBe(0);
  });

  it('ends when its input closes', async () => {
    const { child, ended } = await start('orphaned');
    child.stdin.end();
    expect(await ended).toBe(0);
  });
});

describe('repo verify', () => {
  it('tells what is damaged, what is no task, and which manifest cannot be checked', async () => {
    const root = join(folder, 'mixed');
    for (const task of ['digits', 'edited', 'old', 'swapped']) await writeIdentity(root, task);
    await mkdir(join(root, 'notes'));
    await symlink('loop', join(root, 'loop'));
    const manifest = (task: string) => join(root, task, 'bonsai.json');
    const text = await readFile(manifest('edited'), 'utf8');
    await writeFile(manifest('edited'), text.replace('"test": 0.9', '"test": 0.8'));
    const { manifestDigest: _, ...unsealed } = JSON.parse(await readFile(manifest('old'), 'utf8'));
    await writeFile(manifest('old'), JSON.stringify(unsealed));
    const path = modelPathOf(root, 'swapped', 1);
    await writeFile(path, new Uint8Array((await readFile(path)).length));

    expect(await verifyRepository(root)).toEqual([
      { task: 'digits', version: 1, ok: true },
      { task: 'edited', ok: false, problem: expect.stringMatching(/"manifestDigest".*changed by hand/) },
      { task: 'loop', ok: false, problem: expect.stringMatching(/ELOOP/) },
      { task: 'notes', ok: true, note: expect.stringMatching(/^not a Bonsai task \(no bonsai\.json\)/) },
      { task: 'old', ok: true, note: expect.stringMatching(/no digest of itself/) },
      { task: 'old', version: 1, ok: true },
      { task: 'swapped', version: 1, ok: false, problem: expect.stringMatching(/has digest/) },
    ]);
    const { code, stdout, stderr } = await bonsai('repo', 'verify', 'mixed');
    expect(stdout).toMatch(/^notes: not a Bonsai task \(no bonsai\.json\)/m);
    expect(stdout).toMatch(/^digits\/1: ok$/m);
    expect(stderr).toMatch(/3 of 7 entries are damaged/);
    expect(code).toBe(1);
  });
});

describe('a server is asked before it is loaded', () => {
  let server: RunningServer;
  beforeAll(async () => {
    const repository = join(folder, 'served');
    await writeIdentity(repository, 'digits');
    server = await startServer({
      repository,
      logger: pino({ level: 'silent' }),
      clock: systemClock,
      httpPort: 0,
      metricsPort: 0,
    });
  });
  afterAll(() => server.close());

  it('for the model and the version, and both are named where they are not there', async () => {
    const url = server.httpUrl;
    expect(await fetchTask(url, 'digits', 1)).toMatchObject({ task: 'digits', inputs: [{ name: 'x' }] });
    await expect(fetchTask(url, 'letters')).rejects.toMatchObject({
      code: 'model_not_found',
      message: expect.stringMatching(/no model "letters" ready .*Ready: digits\./),
    });
    await expect(fetchTask(url, 'digits', 7)).rejects.toMatchObject({
      code: 'version_not_found',
      message: expect.stringMatching(/no version 7 of "digits" ready\. Ready: 1\./),
    });
    const { code, stderr } = await bonsai(
      ...['stress', '--url', url, '--model', 'digits', '--model-version', '7', '--data', 'mnist'],
    );
    expect(stderr).toMatch(/\[version_not_found\].* Ready: 1\./);
    expect(code).toBe(1);
  });
});

describe('the cloud side of serve', () => {
  it.each([
    [['--collect-fraction', '0.5'], /--collect-fraction does something only with --collect-samples/],
    [['--second-opinion-below', '0.4'], /--second-opinion-below does something only with --second-opinion/],
    [
      ['--second-opinion', 'http://127.0.0.1:9/v2/models/x', '--second-opinion-task', 'nosuch'],
      /there is no task nosuch; the repository has same/,
    ],
    [['--collect-samples', '/proc/samples'], /unwritable_path/],
  ])('refuses %j', async (options, complaint) => {
    await writeIdentity(join(folder, 'cloud'), 'same');
    const { code, stderr } = await bonsai(
      'serve',
      'cloud',
      '--port',
      '0',
      '--control-port',
      'off',
      ...options,
    );
    expect(stderr).toMatch(complaint);
    expect(stderr).not.toMatch(/\n {4}at /);
    expect(code).not.toBe(0);
  });
});
