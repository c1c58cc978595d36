import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { drawn } from '../src/experiment/page.ts';
import { folderOf, readResults } from '../src/experiment/store.ts';
import { EXPERIMENTS } from '../src/experiment/table.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const runs = readdirSync(join(root, 'experiments'), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

const drawingsOf = (run: string) =>
  Promise.all(
    EXPERIMENTS.map(async (experiment) => {
      const out = join(root, 'experiments', run);
      const stored = await readResults(out, experiment.name);
      return { folder: folderOf(out, experiment.name), drawing: drawn(experiment, stored) };
    }),
  );

describe('results of full runs', () => {
  it.each(runs)('%s has tables that are drawn from it', async (run) => {
    for (const { folder, drawing } of await drawingsOf(run)) {
      for (const [file, text] of Object.entries(drawing?.files ?? {}))
        expect(readFileSync(join(folder, file), 'utf8') === text, join(folder, file)).toBe(true);
    }
  });

  it('are told in the documentation as the newest run has them', async () => {
    const drawings = await drawingsOf(runs.toSorted().at(-1)!);
    const headlines = drawings.flatMap(({ drawing }) => drawing?.headlines ?? []);
    const page = readFileSync(join(root, 'docs/experiments.md'), 'utf8');
    const rows = headlines.map(({ what, thesis, ours }) => `| ${what} | ${thesis} | ${ours} |`);
    expect(page.match(/^\| .*\|$/gm)).toEqual(expect.arrayContaining(rows));
  });
});
