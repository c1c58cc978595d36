import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const main = join(root, 'dist/cli/main.js');

/** Servers start and are asked for real, on a machine that may be busy. */
const LIVE_LIMIT_MS = 300_000;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'bonsai-experiment-test-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function experiment(...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [main, 'experiment', ...args], { cwd: root, encoding: 'utf8' });
}

const page = (out: string) => readFileSync(join(out, 'report.html'), 'utf8');

describe('bonsai experiment', () => {
  it('lists every experiment with its place in the thesis', () => {
    const { stdout, status } = experiment('--json');
    expect(status).toBe(0);
    const listed = JSON.parse(stdout) as { name: string; thesis: string }[];
    expect(listed.map(({ name }) => name)).toEqual([
      ...['complexity', 'metrics', 'coallocation-profile', 'exploding-queue', 'infaas'],
      ...['single-task', 'coallocation', 'distributed', 'league'],
    ]);
    expect(listed[0]!.thesis).toBe('Fig. 3.5');
  });

  it('draws the zoo’s families by complexity, and again from what it stored', () => {
    const out = join(folder, 'complexity');
    const { status, stdout, stderr } = experiment('complexity', '--quick', '--out', out, '--json');
    expect(status, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ experiments: [{ experiment: 'complexity' }] });
    const table = readFileSync(join(out, 'complexity', 'complexity.csv'), 'utf8')
      .trim()
      .split('\n');
    const manifest = JSON.parse(readFileSync(join(root, 'zoo/models/cifar10/bonsai.json'), 'utf8'));
    const first = manifest.variants[0];
    expect(table.find((line) => line.startsWith('cifar10,1,'))).toContain(
      `,${first.accuracy.test},${first.macs},${2 * first.macs},`,
    );
    const before = page(out);
    rmSync(join(out, 'report.html'));
    rmSync(join(out, 'complexity', 'complexity.csv'));
    expect(experiment('--redraw', out).status).toBe(0);
    expect(page(out)).toBe(before);
    expect(existsSync(join(out, 'complexity', 'complexity.csv'))).toBe(true);
  });

  it('measures nothing twice, and does not mix what was measured otherwise', () => {
    const out = join(folder, 'complexity');
    const before = readFileSync(join(out, 'complexity', 'results.json'), 'utf8');
    const again = experiment('complexity', '--quick', '--out', out);
    expect(again.stderr).toContain('0 measured');
    expect(readFileSync(join(out, 'complexity', 'results.json'), 'utf8')).toBe(before);
    const other = experiment('complexity', '--quick', '--out', out, '--seed', '2');
    expect(other.status).toBe(2);
    expect(other.stderr).toMatch(/measured otherwise.*--again/);
  });

  it('says what there is for a name that is not there, and for a folder without results', () => {
    const unknown = experiment('nonsense');
    expect([unknown.status, unknown.stderr]).toEqual([2, expect.stringContaining('exploding-queue')]);
    expect(experiment('league', '--redraw', folder).stderr).toContain('has no results of league');
  });

  it(
    'asks real servers under each policy, and keeps every request',
    () => {
      const out = join(folder, 'live');
      const { status, stderr } = experiment('coallocation', '--scale', 'tiny', '--out', out);
      expect(status, stderr).toBe(0);
      // Of three tasks, their ends and middle.
      expect(readdirSync(join(out, 'profiles', 'parts'))).toHaveLength(9);
      const { results } = JSON.parse(readFileSync(join(out, 'coallocation', 'results.json'), 'utf8'));
      const [iteration] = results.iterations;
      expect(iteration.runs.map(({ name }: { name: string }) => name)).toEqual([
        'static:largest',
        'trivial',
        'bonsai',
      ]);
      for (const { name, offered, tasks } of iteration.runs) {
        expect(tasks).toHaveLength(3);
        expect(offered).toBe(tasks.reduce((sum: number, task: { offered: number }) => sum + task.offered, 0));
        for (const { task, offered: own, answered, refused, failed } of tasks) {
          expect(answered + refused + failed).toBe(own);
          const file = join(out, 'coallocation', `requests-${name.replace(':', '-')}-${task}.csv.gz`);
          const lines = gunzipSync(readFileSync(file)).toString().trim().split('\n');
          // Those of the warm-up as well, and the heading.
          expect(lines.length - 1).toBeGreaterThan(own);
        }
      }
      // All policies were asked the same.
      expect(new Set(iteration.runs.map(({ offered }: { offered: number }) => offered)).size).toBe(1);
      expect(page(out)).toContain('Table 5.2');
    },
    LIVE_LIMIT_MS,
  );
});
