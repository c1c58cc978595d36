import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { FIGURES } from '../docs/generate/figures/table.ts';
import { figureFile } from '../src/report/figure-file.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = join(root, 'docs/figures');

// A figure that differs is drawn anew by `npm run docs`: look at it before it is committed.
describe('figures of the documentation', () => {
  it.each(Object.entries(FIGURES))(
    '%s is drawn from the code as it is, byte for byte',
    async (name, draw) => {
      const file = figureFile(await draw());
      expect(file).not.toMatch(/NaN|Infinity|undefined/);
      await expect(file).toMatchFileSnapshot(join(folder, `${name}.svg`));
    },
  );

  it('are all drawn, and all shown with words for those who do not see them', () => {
    const files = readdirSync(folder).filter((name) => name.endsWith('.svg'));
    expect(files.map((name) => name.slice(0, -4)).sort()).toEqual(Object.keys(FIGURES).sort());
    const page = readFileSync(join(root, 'docs/concepts.md'), 'utf8');
    const shown = [...page.matchAll(/!\[([^\]]{30,})\]\(figures\/(.+)\.svg\)/g)].map((match) => match[2]!);
    expect(shown.sort()).toEqual(Object.keys(FIGURES).sort());
  });
});
