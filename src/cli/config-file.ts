import type { Command, Option } from 'commander';
import { isMap, isScalar, LineCounter, parseDocument } from 'yaml';
import { BonsaiError } from '../base/errors.ts';
import { parsed } from './option-value.ts';

/** A configuration file as it was read. */
export interface ConfigText {
  readonly path: string;
  readonly text: string;
}

/**
 * Fills the options of a command from its section of the file; all sections are checked against the known commands.
 * @throws BonsaiError `invalid_config`
 */
export function applyConfig(command: Command, config: ConfigText, known: readonly Command[]): void {
  applySection(command, readSections(config, known).get(command.name()));
}

/** One entry of a section whose key is an option of the command. */
interface Entry {
  readonly option: Option;
  readonly node: unknown;
  /** `bonsai.yaml:3`, for messages. */
  readonly where: string;
}

/** A configuration file of sections, and how to complain about a place in it. */
export interface OpenConfig {
  readonly sections: readonly { readonly key: unknown; readonly value: unknown }[];
  lineOf(node: unknown): number;
  fail(line: number, problem: string): BonsaiError;
}

/** @throws BonsaiError `invalid_config` for what is not YAML, or no map of sections */
export function openConfig({ path, text }: ConfigText): OpenConfig {
  const counter = new LineCounter();
  const document = parseDocument(text, { lineCounter: counter });
  const fail = (line: number, problem: string) =>
    new BonsaiError('invalid_config', `${path}:${line}: ${problem}`);
  const lineOf = (node: unknown) =>
    typeof node === 'object' && node !== null && 'range' in node && Array.isArray(node.range)
      ? counter.linePos(node.range[0]).line
      : 1;
  const broken = document.errors[0];
  if (broken !== undefined) throw fail(counter.linePos(broken.pos[0]).line, broken.message);
  if (document.contents !== null && !isMap(document.contents)) {
    throw fail(1, 'expected a section per command, such as "serve:".');
  }
  return { sections: document.contents?.items ?? [], lineOf, fail };
}

/** The section that says what is asked of single tasks; see `task-objectives.ts`. */
export const TASKS_SECTION = 'tasks';

/**
 * Reads `serve: { cpus: "0", slo: 400ms }`. Keys are the long flags without dashes.
 * @returns the entries by command
 * @throws BonsaiError `invalid_config` naming file, line and field, and what is known in its place
 */
function readSections(config: ConfigText, commands: readonly Command[]): Map<string, Entry[]> {
  const sections = new Map<string, Entry[]>();
  const { fail, lineOf, sections: written } = openConfig(config);
  for (const { key, value: section } of written) {
    const name = nameOf(key);
    if (name === TASKS_SECTION) continue;
    const command = commands.find((candidate) => candidate.name() === name);
    const known = (names: readonly string[]) => `Known: ${names.join(', ')}.`;
    if (command === undefined) {
      const names = commands.filter(({ options }) => options.length > 0).map((each) => each.name());
      throw fail(lineOf(key), `there is no command "${name}" that a section could be for. ${known(names)}`);
    }
    if (!isMap(section)) throw fail(lineOf(section ?? key), `"${name}" should hold options.`);
    const entries: Entry[] = [];
    for (const pair of section.items) {
      const field = nameOf(pair.key);
      const option = command.options.find((candidate) => candidate.long === `--${field}`);
      if (option === undefined) {
        const flags = command.options.flatMap(({ long }) => long?.slice(2) ?? []);
        throw fail(lineOf(pair.key), `${name} has no option "${field}". ${known(flags)}`);
      }
      entries.push({ option, node: pair.value, where: `${config.path}:${lineOf(pair.value ?? pair.key)}` });
    }
    sections.set(name, entries);
  }
  return sections;
}

export function nameOf(key: unknown): string {
  return isScalar(key) ? String(key.value) : String(key);
}

function applySection(command: Command, entries: readonly Entry[] = []): void {
  for (const { option, node, where } of entries)
    command.setOptionValueWithSource(option.attributeName(), optionValue(option, node, where), 'config');
}

function optionValue(option: Option, node: unknown, where: string): unknown {
  const field = `${where}: "${option.long?.slice(2)}"`;
  if (!isScalar(node)) throw new BonsaiError('invalid_config', `${field} should be a single value.`);
  if (!option.isBoolean()) return parsed(option, String(node.value), field);
  if (typeof node.value === 'boolean') return node.value;
  throw new BonsaiError('invalid_config', `${field} should be true or false.`);
}
