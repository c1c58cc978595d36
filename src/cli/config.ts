import { existsSync, readFileSync } from 'node:fs';
import type { Command, Option } from 'commander';
import { isMap, isScalar, LineCounter, parseDocument, type Scalar, type YAMLMap } from 'yaml';
import { BonsaiError, messageOf } from '../base/errors.ts';

/** Where options come from when neither flag nor environment gives them. */
export const CONFIG_FILE = 'bonsai.yaml';

/** `--cpu-budget` of `bonsai serve` may be set as `BONSAI_CPU_BUDGET`. */
export function environmentName(longFlag: string): string {
  return `BONSAI_${longFlag
    .replace(/^--(no-)?/, '')
    .replaceAll('-', '_')
    .toUpperCase()}`;
}

/**
 * Fills a command's options from the configuration file and then from the environment, before its flags are read:
 * flags override the environment, which overrides the file. Mandatory options may come from either.
 */
export function installOptionSources(
  program: Command,
  sources: { readonly configPath: () => string; readonly environment: NodeJS.ProcessEnv },
): void {
  for (const command of program.commands) {
    // Named for the help text; commander reads variables only of options that had one when they were added.
    for (const option of command.options) if (option.long) option.env(environmentName(option.long));
    if (command.commands.length > 0) installOptionSources(command, sources);
  }
  program.hook('preSubcommand', (_, command) => {
    applyConfigFile(command, sources.configPath());
    applyEnvironment(command, sources.environment);
  });
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

/**
 * Fills options from the command's section of `bonsai.yaml`:
 * `serve: { cpus: "0", slo: 400ms }`. Keys are the long flags without dashes.
 * @throws BonsaiError `invalid_config` naming file, line and field
 */
export function applyConfigFile(command: Command, path: string): void {
  if (!existsSync(path)) return;
  const counter = new LineCounter();
  const document = parseDocument(readFileSync(path, 'utf8'), { lineCounter: counter });
  const broken = document.errors[0];
  if (broken !== undefined) {
    throw new BonsaiError(
      'invalid_config',
      `${path}:${counter.linePos(broken.pos[0]).line}: ${broken.message}`,
    );
  }
  if (document.contents === null) return;
  if (!isMap(document.contents)) {
    throw new BonsaiError('invalid_config', `${path}:1: expected a section per command, such as "serve:".`);
  }
  const section = document.contents.get(command.name(), true);
  if (section === undefined) return;
  const lineOf = (node: unknown) =>
    typeof node === 'object' && node !== null && 'range' in node && Array.isArray(node.range)
      ? counter.linePos(node.range[0]).line
      : 1;
  if (!isMap(section)) {
    throw new BonsaiError(
      'invalid_config',
      `${path}:${lineOf(section)}: "${command.name()}" should hold options.`,
    );
  }
  for (const pair of (section as YAMLMap<Scalar, unknown>).items) {
    const key = String(pair.key.value);
    const option = command.options.find((candidate) => candidate.long === `--${key}`);
    if (option === undefined) {
      const known = command.options.map((candidate) => candidate.long?.slice(2)).filter(Boolean);
      throw new BonsaiError(
        'invalid_config',
        `${path}:${lineOf(pair.key)}: ${command.name()} has no option "${key}". Known: ${known.join(', ')}.`,
      );
    }
    command.setOptionValueWithSource(
      option.attributeName(),
      optionValue(option, pair.value, path, lineOf(pair.value)),
      'config',
    );
  }
}

function optionValue(option: Option, node: unknown, path: string, line: number): unknown {
  if (!isScalar(node)) {
    throw new BonsaiError(
      'invalid_config',
      `${path}:${line}: "${option.long?.slice(2)}" should be a single value.`,
    );
  }
  if (option.isBoolean()) {
    if (typeof node.value === 'boolean') return node.value;
    throw new BonsaiError(
      'invalid_config',
      `${path}:${line}: "${option.long?.slice(2)}" should be true or false.`,
    );
  }
  return parsed(option, String(node.value), `${path}:${line}: "${option.long?.slice(2)}"`);
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
