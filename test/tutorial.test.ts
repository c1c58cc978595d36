import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const main = join(root, 'dist/cli/main.js');
const page = readFileSync(join(root, 'docs/tutorial.md'), 'utf8');

/** Commands stand in blocks marked `sh`, one or more lines each; what they print in blocks without a mark. */
const commands = [...page.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].flatMap((match) =>
  match[1]!.trim().split('\n'),
);

/** What makes the same steps small: [in the page, here]. Each has to be there. */
const SCALE: readonly (readonly [string, string])[] = [
  ['--backbone resnet-20 --epochs 2@0.5,1', '--backbone resnet:widths=8-16,blocks=1-1 --epochs 0.3'],
  ['--ratios 0.25,0.5,0.75', '--ratios 0.5 --epochs 0.1 --keep all --align 1'],
  ['--demand ramp:50,1200,50 --duration 20s', '--demand ramp:5,20,5 --duration 2s'],
];

describe('docs/tutorial.md', () => {
  let folder: string;
  let url = '';
  let server: ChildProcess | undefined;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-tutorial-'));
  });
  afterAll(async () => {
    if (server !== undefined && server.exitCode === null) {
      server.kill();
      await once(server, 'exit');
    }
    await rm(folder, { recursive: true });
  });

  /** As a shell would run it, but for what makes it small and for the ports, which are free ones. */
  function scaled(command: string): string {
    const small = SCALE.reduce((text, [from, to]) => text.replace(from, to), command);
    return small
      .replace('npx bonsai', `"${process.execPath}" "${main}"`)
      .replace('http://127.0.0.1:8000', url);
  }

  const environment = () => ({
    ...process.env,
    CI: 'true',
    BONSAI_PORT: '0',
    BONSAI_GRPC_PORT: '0',
    BONSAI_METRICS_PORT: '0',
    BONSAI_CONTROL_PORT: 'off',
    NODE_PATH: join(root, 'node_modules'), // A reader is in the project's folder.
    ...(url === '' ? {} : { BONSAI_URL: url }),
  });

  it('has the steps that this test makes small', () => {
    expect(SCALE.filter(([from]) => commands.filter((each) => each.includes(from)).length !== 1)).toEqual([]);
    expect(commands.filter((command) => !/^(npx bonsai|curl|node -e) /.test(command))).toEqual([]);
  });

  it('works, command for command', { timeout: 600_000 }, async () => {
    const printed = new Map<string, string>();
    for (const command of commands) {
      const word = command.includes('/infer')
        ? 'infer'
        : command.split(' ')[command.startsWith('npx') ? 2 : 0]!;
      if (word === 'serve') {
        server = spawn('sh', ['-c', `exec ${scaled(command)}`], {
          cwd: folder,
          env: environment(),
          stdio: ['ignore', 'pipe', 'ignore'],
        });
        for await (const line of createInterface({ input: server.stdout! })) {
          url = /REST (\S+),/.exec(line)?.[1] ?? '';
          if (url !== '') break;
        }
        expect(url).toMatch(/^http/);
      } else {
        const { stdout } = await promisify(execFile)('sh', ['-c', scaled(command)], {
          cwd: folder,
          env: environment(),
        });
        printed.set(word, stdout);
      }
    }
    expect(printed.get('inspect')).toMatch(/input {3}image float32 \[N, 1, 28, 28\]/);
    const family = printed.get('repo')!;
    expect(family).toMatch(/^version {2}accuracy % {2}MMACs/);
    // Heading, rule, the base and one variant.
    expect(family.trim().split('\n')).toHaveLength(4);
    expect(JSON.parse(printed.get('curl')!)).toMatchObject({
      name: 'digits',
      versions: expect.arrayContaining(['1']),
    });
    const [scores] = JSON.parse(printed.get('infer')!).outputs;
    expect(scores).toMatchObject({ name: 'logits', shape: [1, 3] });
    for (const score of scores.data) expect(score).toMatch(/^-?\d+(\.\d+)?:(\d):\2$/);
    const [, offered, answered] = /offered (\d+), answered (\d+)/.exec(printed.get('stress')!)!;
    expect(Number(offered)).toBeGreaterThan(0);
    // How many are in time is a matter of the machine; that right answers come is not.
    expect(Number(answered)).toBeGreaterThan(0);
    expect(printed.get('stress')).toMatch(/version 1: .* accuracy/);
  });
});
