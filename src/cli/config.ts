import { readFileSync } from 'node:fs';
import type { Command, Option } from 'commander';
import { isMap, isScalar, LineCounter, parseDocument } from 'yaml';
import { BonsaiError, messageOf, systemCodeOf } from '../base/errors.ts';

/** Where options come from when neither flag nor environment gives them. */
export const CONFIG_FILE = 'bonsai.yaml';

/** `--cpu-budget` of `bonsai serve` may be set as `BONSAI_CPU_BUDGET`. */
export function environmentName(longFlag: string): string {
  return `BONSAI_${longFlag
    .replace(/^--(no-)?/, '')
    .replaceAll('-', '_')
    .toUpperCase()}`;
}

/** The configuration file, and whether it has to be there: one that the user named does, the usual one need not. */
export interface ConfigSource {
  readonly path: string;
  readonly isRequired: boolean;
}

/**
 * Fills a command's options from the configuration file and then from the environment, before its flags are read:
 * flags override the environment, which overrides the file. Mandatory options may come from either. Sections and keys
 * of all commands are checked, whichever runs: a misspelt one would otherwise never show.
 */
export function installOptionSources(
  program: Command,
  sources: { readonly config: () => ConfigSource; readonly environment: NodeJS.ProcessEnv },
): void {
  const commands = commandsOf(program);
  for (const { options } of commands) {
    // Named for the help text; commander reads variables only of options that had one when they were added.
    for (const option of options) if (option.long) option.env(environmentName(option.long));
  }
  for (const parent of [program, ...commands]) {
    parent.hook('preSubcommand', (_, command) => {
      const sections = readConfigFile(sources.config(), commands);
      applySection(command, sections.get(command.name()));
      applyEnvironment(command, sources.environment);
    });
  }
}

/** All commands, subcommands included; each that has options may have a section of its name. */
function commandsOf(parent: Command): Command[] {
  return parent.commands.flatMap((command) => [command, ...commandsOf(command)]);
}

function applyEnvironment(command: Command, environment: NodeJS.ProcessEnv): void {
  for (const option of command.options) {
    const name = option.envVar;
    const text = name === undefined ? undefined : environment[name];
    if (name === undefined || text === undefined) continue;
    const value = option.isBoolean() ? truth(text, name) : parsed(option, text, name);
    command.setOptionValueWithSource(option.attributeName(), value, 'env');
  }
}

function truth(text: string, name: string): boolean {
  if (/^(1|true|yes)$/i.test(text)) return true;
  if (/^(0|false|no|)$/i.test(text)) return false;
  throw new BonsaiError('invalid_config', `${name} should be true or false, got "${text}".`);
}

/** One entry of a section whose key is an option of the command. */
interface Entry {
  readonly option: Option;
  readonly node: unknown;
  /** `bonsai.yaml:3`, for messages. */
  readonly where: string;
}

/**
 * Reads `bonsai.yaml`: `serve: { cpus: "0", slo: 400ms }`. Keys are the long flags without dashes.
 * @returns the entries by command
 * @throws BonsaiError `invalid_config` naming file, line and field, and what is known in its place
 */
function readConfigFile(
  { path, isRequired }: ConfigSource,
  commands: readonly Command[],
): Map<string, Entry[]> {
  const sections = new Map<string, Entry[]>();
  const text = readText(path, isRequired);
  if (text === undefined) return sections;
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
  if (document.contents === null) return sections;
  if (!isMap(document.contents)) throw fail(1, 'expected a section per command, such as "serve:".');
  for (const { key, value: section } of document.contents.items) {
    const name = nameOf(key);
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
      entries.push({ option, node: pair.value, where: `${path}:${lineOf(pair.value ?? pair.key)}` });
    }
    sections.set(name, entries);
  }
  return sections;
}

function readText(path: string, isRequired: boolean): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    if (!isRequired && systemCodeOf(cause) === 'ENOENT') return undefined;
    throw new BonsaiError(
      'invalid_config',
      `The configuration file ${path} cannot be read: ${messageOf(cause)}. Name one that exists with --config.`,
      { cause },
    );
  }
}

function nameOf(key: unknown): string {
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

/** The text as the option's own parser takes it; `where` heads the complaint. */
function parsed(option: Option, text: string, where: string): unknown {
  if (option.argChoices !== undefined && !option.argChoices.includes(text)) {
    throw new BonsaiError(
      'invalid_config',
      `${where} should be one of ${option.argChoices.join(', ')}, got "${text}".`,
    );
  }
  if (option.parseArg === undefined) return text;
  try {
    return option.parseArg(text, undefined);
  } catch (cause) {
    throw new BonsaiError('invalid_config', `${where}: ${messageOf(cause)}`, { cause });
  }
}
