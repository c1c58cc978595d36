import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const main = join(root, 'dist/cli/main.js');
const examples = [
  ...readFileSync(join(root, 'docs/simulate.md'), 'utf8').matchAll(/^```js\n(.*?)^```/gms),
].map((match) => match[1]!);
const mine = examples.find((example) => example.startsWith('// mine.mjs'))!;
const library = examples.find((example) => example.startsWith('import'))!;

// A project that depends on the package, as a user's does.
let project: string;
beforeAll(async () => {
  project = mkdtempSync(join(tmpdir(), 'bonsai-simulate-'));
  await mkdir(join(project, 'node_modules'));
  symlinkSync(root, join(project, 'node_modules', 'bonsai'), 'junction');
  writeFileSync(join(project, 'mine.mjs'), mine);
});
afterAll(() => rmSync(project, { recursive: true }));

interface Result {
  readonly policies: readonly {
    readonly name: string;
    readonly runs: readonly object[];
    readonly intervals: Record<string, { readonly mean: number; readonly halfWidth: number }>;
  }[];
}

function simulated(...args: string[]): Result {
  const output = execFileSync(process.execPath, [main, 'simulate', '--json', ...args], {
    cwd: project,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return JSON.parse(output) as Result;
}

function refusal(...args: string[]): { status: number | null; stderr: string } {
  return spawnSync(process.execPath, [main, 'simulate', ...args], { cwd: project, encoding: 'utf8' });
}

describe('bonsai simulate', () => {
  it('runs the example policy of docs/simulate.md, which is about 30 lines and beats the trivial one', () => {
    expect(mine.trim().split('\n').length).toBeLessThan(36);
    const [own] = simulated('--trace', 'burst3', '--policy', './mine.mjs', '--seeds', '2').policies;
    const [trivial] = simulated('--trace', 'burst3', '--policy', 'trivial', '--seeds', '2').policies;
    expect(own!.name).toBe('share-of-slack');
    expect(own!.runs.length).toBe(2);
    expect(own!.intervals.meanAccuracy!.mean).toBeGreaterThan(trivial!.intervals.meanAccuracy!.mean);
    expect(own!.intervals.violationRatio!.mean).toBeLessThan(trivial!.intervals.violationRatio!.mean);
  });

  it('refuses what would change nothing without a word', () => {
    const demand = ['--trace', 'burst3', '--seeds', '1'];
    const task = refusal(...demand, '--policy', 'static:task9=1');
    expect(task.stderr).toContain('There is no task "task9"');
    expect(task.status).toBe(2);
    expect(refusal(...demand, '--policy', 'static:task1=99').stderr).toContain('is not on its frontier');
    const chain = ['--repository', 'zoo/models', '--chain', 'geometric:3,1,2,0.5,1'];
    expect(refusal(...demand, '--policy', 'trivial', ...chain).stderr).toContain('cannot be used with');
    const mean = ['--demand', 'constant:5', '--mean', '9'];
    expect(refusal('--policy', 'trivial', ...mean).stderr).toContain('cannot be used with');
  });

  it('gives the same figures each time', () => {
    const args = ['--trace', 'burst1', '--policy', 'slackfit', '--seeds', '2', '--seed', '7'];
    expect(simulated(...args)).toEqual(simulated(...args));
  });

  it('takes files of traces with windows and means, demands, and servers that fail', () => {
    const rows = Array.from({ length: 120 }, (_, second) => `${second},${second < 60 ? 5 : 20}`);
    writeFileSync(join(project, 'trace.csv'), `second,count\n${rows.join('\n')}\n`);
    const offered = (result: Result) => (result.policies[0]!.runs[0] as { offered: number }).offered;
    const window = simulated('--trace', 'trace.csv@0-60', '--policy', 'static:smallest', '--seeds', '1');
    expect(Math.abs(offered(window) - 300)).toBeLessThan(70);
    const scaled = simulated(
      '--trace',
      'trace.csv',
      '--mean',
      '3,6',
      '--policy',
      'static:smallest',
      '--seeds',
      '1',
    );
    expect(Math.abs(offered(scaled) - 9 * 120)).toBeLessThan(120);
    const failing = simulated(
      ...['--demand', 'constant:20', '--duration', '60s', '--servers', '2', '--fail', '1@10-20'],
      ...['--policy', 'slackfit', '--seeds', '1'],
    );
    expect(failing.policies[0]!.runs[0]).toMatchObject({ errors: 1 });
  });

  it('compares contestants, policies with parameters, and policies of files', () => {
    const list = 'slackfit, static:task1=2,task2=1,bonsai:0.9,./mine.mjs';
    const { policies } = simulated(
      ...['--demand', 'constant:20', '--demand', 'constant:5', '--duration', '20s'],
      ...['--compare', list, '--seeds', '1'],
    );
    expect(policies.map(({ name }) => name)).toEqual([
      ...['slackfit', 'static:task1=2,task2=1', 'bonsai:0.9', 'share-of-slack'],
    ]);
  });

  it('writes pages with figures', () => {
    simulated('--trace', 'burst1', '--compare', 'trivial,slackfit', '--seeds', '2', '--html', 'compare.html');
    const compared = readFileSync(join(project, 'compare.html'), 'utf8');
    expect(compared).toContain('Accuracy against violations');
    expect(compared.match(/<circle/g)?.length).toBe(2);
    simulated('--trace', 'burst1', '--policy', 'trivial', '--seeds', '1', '--html', 'run.html');
    expect(readFileSync(join(project, 'run.html'), 'utf8')).toContain('task1: trivial:inverseThroughput');
  });

  it('refuses what it cannot simulate, and says why', () => {
    writeFileSync(join(project, 'broken.mjs'), 'export const policy = { name: "x", decide: 3 };');
    writeFileSync(
      join(project, 'typed.ts'),
      'const n: number = 1; export const policy = { name: "x", decide: () => n };',
    );
    const own = (file: string, text: string) => writeFileSync(join(project, file), text);
    own('waits.mjs', 'await new Promise(() => {}); export const policy = {};');
    own('restless.mjs', 'export const policy = { name: "restless", periodMs: 0, decide: () => ({}) };');
    own('fails.mjs', 'export const policy = { name: "fails", decide: (state) => state.none.there };');
    own('silent.mjs', 'export const policy = { name: "silent", decide: () => {} };');
    const cases: [string[], RegExp, number][] = [
      [[], /--policy NAME/, 2],
      [['--policy', 'clever'], /no policy "clever".*slackfit/, 2],
      [['--policy', './none.mjs'], /no policy file \.\/none\.mjs/, 1],
      [['--policy', './broken.mjs'], /its decide is no function/, 2],
      [['--policy', './waits.mjs'], /its top level has not ended after 10 s/, 2],
      [['--policy', './restless.mjs'], /Policy restless must have a periodMs of at least 1/, 2],
      [['--policy', './fails.mjs'], /Policy fails failed in decide\(state\): TypeError: .*fails\.mjs:1/s, 2],
      [
        ['--policy', './silent.mjs'],
        /Policy silent must return \{ actions, reason \}.*returned undefined/,
        2,
      ],
      [['--compare', 'trivial,clever'], /no contestant "clever"/, 2],
      [['--policy', 'trivial', '--duration', '60s'], /--duration does something only with --demand/, 2],
      [['--policy', 'trivial', '--trace', 'burst3', '--mean', '5'], /3 tasks, but 1 means/, 2],
      [['--policy', 'trivial', '--fail', '1@2-3'], /server 1 \(of 1\)/, 2],
      [['--policy', 'trivial', '--residency', 'none'], /integer/, 2],
    ];
    if (!(process.features as { typescript?: unknown }).typescript)
      cases.push([['--policy', './typed.ts'], /TypeScript, which Node\.js .*\.mjs/, 1]);
    for (const [args, message, code] of cases) {
      const { status, stderr } = refusal(...args);
      expect(stderr).toMatch(message);
      expect(status).toBe(code);
    }
  });
});

describe('the library', () => {
  it('does what docs/simulate.md says', () => {
    writeFileSync(join(project, 'library.mjs'), library);
    const output = execFileSync(process.execPath, ['library.mjs'], { cwd: project, encoding: 'utf8' });
    expect(output).toMatch(/^\d\d\.\d % accuracy, \d\.\d\d % violations$/m);
  });
});
