import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));

/** Every page, by its path from the root. */
export const documents: readonly string[] = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name.replaceAll('\\', '/')}`)
    .sort(),
];

export interface ShownCommand {
  readonly document: string;
  /** What stands behind `npx bonsai`. */
  readonly line: string;
}

/** What pages show of the command line: blocks of code, and code in the text. */
export const shown: readonly ShownCommand[] = [
  ...documents,
  'zoo/README.md',
  'experiments/README.md',
].flatMap((document) => {
  const text = readFileSync(join(root, document), 'utf8').replaceAll(/\\\n\s*/g, '');
  return [
    ...[...text.matchAll(/^npx bonsai (.*)$/gm)].map((match) => match[1]!),
    ...[...text.matchAll(/`npx bonsai ([^`\n]+)`/g)].map((match) => match[1]!),
    // Examples of the help texts, with a remark behind them.
    ...[...text.matchAll(/^ {2}\$ bonsai (.*?)(?: {3,}.*)?$/gm)].map((match) => match[1]!),
  ]
    .filter((line) => !/^COMMAND\b|…/.test(line))
    .map((line) => ({ document, line }));
});

/** The words of one command as a shell would hand them on: without remark, pipe, redirection and `&`. */
export function wordsOf(line: string): string[] {
  const words: string[] = [];
  for (const [word] of line.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g)) {
    if (/^(#|\||[12]?>|&$|&&)/.test(word)) break;
    words.push(word.replaceAll(/['"]/g, ''));
  }
  return words;
}
