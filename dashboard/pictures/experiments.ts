/**
 * Photographs each experiment of a stored report, figures and tables.
 * node dist/bench/dashboard/pictures/experiments.js experiments/NAME docs/views
 */
import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import sharp from 'sharp';
import { launch } from '../e2e/browser.fixture.ts';

const [results, folder = 'docs/views'] = process.argv.slice(2);
if (results === undefined) throw new Error('Name the folder of the results, such as experiments/NAME.');

await mkdir(folder, { recursive: true });
const browser = await launch();
const page = await browser.newPage({ viewport: { width: 1130, height: 800 }, colorScheme: 'light' });
await page.goto(pathToFileURL(join(resolve(results), 'report.html')).href);
for (const section of await page.locator('section[id]').all()) {
  const name = await section.getAttribute('id');
  if ((await section.locator('figure').count()) === 0) continue;
  await sharp(await section.screenshot())
    .webp({ quality: 60 })
    .toFile(join(folder, `experiment-${name}.webp`));
  process.stdout.write(`experiment-${name}\n`);
}
await browser.close();
