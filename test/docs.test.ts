import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const main = join(root, 'dist/cli/main.js');

/** Every page, by its path from the root. */
const documents = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name.replaceAll('\\', '/')}`)
    .sort(),
];

const helps = new Map<string, string>();

/** Asked once of each command: that starts a program. */
function helpOf(command: string): string {
  const help =
    helps.get(command) ?? execFileSync(process.execPath, [main, command, '--help'], { encoding: 'utf8' });
  helps.set(command, help);
  return help;
}

describe('documentation', () => {
  it.each(documents)('%s links to files that are there', (document) => {
    const text = readFileSync(join(root, document), 'utf8');
    const links = [...text.matchAll(/\]\((?!https?:)([^)#]+)\)/g)].map((match) => match[1]!);
    expect(links.filter((link) => !existsSync(join(root, dirname(document), link)))).toEqual([]);
  });

  it('has a map that names every page once', () => {
    const map = readFileSync(join(root, 'docs/README.md'), 'utf8');
    const named = [...map.matchAll(/\]\(([^)#]+\.md)\)/g)].map((match) => posix.join('docs', match[1]!));
    const pages = documents.filter((path) => path.startsWith('docs/') && !path.startsWith('docs/decisions/'));
    expect(named.filter((path) => path.startsWith('docs/')).sort()).toEqual(
      pages.filter((path) => path !== 'docs/README.md'),
    );
  });

  it('names source files that are there', () => {
    const text = readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8');
    const paths = [...text.matchAll(/`([a-z-]+\/[a-z/-]+\.ts)`/g)].map((match) => match[1]!);
    const absent = paths.filter(
      (path) => !existsSync(join(root, 'src', path)) && !existsSync(join(root, path)),
    );
    expect(paths.length).toBeGreaterThan(10);
    expect(absent).toEqual([]);
  });

  it.each([
    'README.md',
    'docs/prune.md',
    'docs/train.md',
    'docs/profile.md',
    'docs/data.md',
    'docs/simulate.md',
    'docs/protocol.md',
    'docs/fleet.md',
    'docs/install.md',
    'docs/observability.md',
    'docs/experiments.md',
    'docs/repository.md',
    'docs/cloud.md',
  ])('%s shows commands with options that exist', (document) => {
    const text = readFileSync(join(root, document), 'utf8');
    const commands = [...text.matchAll(/^npx bonsai (\S+)(.*)$/gm)];
    expect(commands.length).toBeGreaterThan(2);
    for (const [, command, rest] of commands) {
      const help = helpOf(command!);
      for (const [flag] of rest!.matchAll(/--[a-z-]+/g)) expect(help, `${command} ${flag}`).toContain(flag);
    }
  });

  it('numbers decisions without gaps', () => {
    const numbers = documents
      .filter((name) => name.startsWith('docs/decisions/'))
      .map((name) => Number(name.slice('docs/decisions/'.length).slice(0, 4)))
      .sort((a, b) => a - b);
    expect(numbers).toEqual(numbers.map((_, i) => i + 1));
  });
});
