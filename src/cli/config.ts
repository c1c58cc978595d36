import { existsSync, readFileSync } from 'node:fs';
import type { Command, Option } from 'commander';
import { isMap, isScalar, LineCounter, parseDocument, type Scalar, type YAMLMap } from 'yaml';
import { BonsaiError } from '../base/errors.ts';

/** Where options come from when neither flag nor environment gives them. */
export const CONFIG_FILE = 'bonsai.yaml';

/** `--cpu-budget` of `bonsai serve` may be set as `BONSAI_CPU_BUDGET`. */
export function environmentName(longFlag: string): string {
  return `BONSAI_${longFlag
    .replace(/^--(no-)?/, '')
    .replaceAll('-', '_')
    .toUpperCase()}`;
}

/** Gives every option of a command its environment variable. */
export function bindEnvironment(command: Command): void {
  for (const option of command.options) if (option.long) option.env(environmentName(option.long));
}

/**
 * Fills options that neither a flag nor the environment set from the command's section of `bonsai.yaml`:
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
    const source = command.getOptionValueSource(option.attributeName());
    if (source !== undefined && source !== 'default') continue;
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
  const text = String(node.value);
  if (option.parseArg === undefined) return text;
  try {
    return option.parseArg(text, undefined);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new BonsaiError('invalid_config', `${path}:${line}: "${option.long?.slice(2)}": ${reason}`, {
      cause,
    });
  }
}
