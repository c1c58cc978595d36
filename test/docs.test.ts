import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { type Command, CommanderError } from 'commander';
import { describe, expect, it } from 'vitest';
import { allCommands, bonsaiProgram } from '../src/cli/program.ts';
import { documents, root, shown, wordsOf } from './shown-commands.fixture.ts';

/**
 * Pages whose commands a test runs for real, and that test. All other commands are parsed by the program's own parsers, which knows
 * commands, operands, options and values, but runs nothing: many take hours, a bucket, a cluster or another machine.
 */
const RUN: Readonly<Record<string, string>> = {
  'docs/tutorial.md': 'test/tutorial.test.ts',
  'docs/fleet.md': 'test/e2e/fleet.test.ts',
  'docs/backbones.md': 'src/cli/backbones.test.ts',
  // The policy in it, and its code.
  'docs/simulate.md': 'test/simulate.test.ts',
};

/** Does nothing but parse. @throws what the program would complain about */
async function parse(words: readonly string[]): Promise<void> {
  const program = bonsaiProgram();
  const quiet = (command: Command): void => {
    command.exitOverride().configureOutput({ writeOut: () => {}, writeErr: () => {} });
    if (command.commands.length === 0) command.action(() => {});
    for (const child of command.commands) quiet(child);
  };
  for (const command of await allCommands()) program.addCommand(command);
  quiet(program);
  try {
    await program.parseAsync(words, { from: 'user' });
  } catch (thrown) {
    // Asked for help or the version.
    if (!(thrown instanceof CommanderError && thrown.exitCode === 0)) throw thrown;
  }
}

const read = (document: string): string => readFileSync(join(root, document), 'utf8');

/** As GitHub makes them of headings: small letters, without punctuation, hyphens for blanks. */
function anchorsOf(text: string): Set<string> {
  const headings = [...text.matchAll(/^#+ (.+)$/gm)].map((match) => match[1]!);
  return new Set(
    headings.map((heading) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
        .replaceAll(' ', '-'),
    ),
  );
}

describe('documentation', () => {
  it.each(documents)('%s links to files that are there', (document) => {
    const text = readFileSync(join(root, document), 'utf8');
    const links = [...text.matchAll(/\]\((?!https?:)([^)#]+)\)/g)].map((match) => match[1]!);
    expect(links.filter((link) => !existsSync(join(root, dirname(document), link)))).toEqual([]);
  });

  it.each(documents)('%s links to headings that are there', (document) => {
    const links = [...read(document).matchAll(/\]\((?!https?:)([^)#]*)#([^)]+)\)/g)];
    const lost = links.filter(([, path, anchor]) => {
      const target = path === '' ? document : posix.join(posix.dirname(document), path!);
      return !anchorsOf(read(target)).has(anchor!);
    });
    expect(lost.map(([link]) => link)).toEqual([]);
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

  it.each(documents.filter((document) => shown.some((command) => command.document === document)))(
    '%s shows commands that the program understands',
    async (document) => {
      for (const { line } of shown.filter((command) => command.document === document))
        await expect(parse(wordsOf(line)), line).resolves.toBeUndefined();
    },
  );

  it('would notice a command that the program does not understand', async () => {
    expect(shown.length).toBeGreaterThan(100);
    await expect(parse(wordsOf('serve models --cpu 0'))).rejects.toThrow(/unknown option/);
    await expect(parse(wordsOf('serv models'))).rejects.toThrow(/unknown command/);
    await expect(parse(wordsOf('serve models --slo fast  # soon'))).rejects.toThrow(/duration/);
    await expect(parse(wordsOf('repo show models mnist more'))).rejects.toThrow(/too many arguments/);
  });

  it.each(Object.entries(RUN))('%s is run by %s', (page, file) => {
    expect(readFileSync(join(root, file), 'utf8')).toContain(page);
  });

  it('numbers decisions without gaps', () => {
    const numbers = documents
      .filter((name) => name.startsWith('docs/decisions/'))
      .map((name) => Number(name.slice('docs/decisions/'.length).slice(0, 4)))
      .sort((a, b) => a - b);
    expect(numbers).toEqual(numbers.map((_, i) => i + 1));
  });
});
