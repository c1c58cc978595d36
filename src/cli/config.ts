import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { BonsaiError, messageOf, systemCodeOf } from '../base/errors.ts';
import { parsed, truth } from './option-value.ts';

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
  sources: {
    readonly config: () => ConfigSource;
    readonly environment: NodeJS.ProcessEnv;
    /** Every command that a section may be for, where the program has not got them all; asked only if there is a file. */
    readonly allCommands?: () => Promise<readonly Command[]>;
  },
): void {
  const commands = commandsOf(program.commands);
  for (const { options } of commands) {
    // Named for the help text; commander reads variables only of options that had one when they were added.
    for (const option of options) if (option.long) option.env(environmentName(option.long));
  }
  for (const parent of [program, ...commands]) {
    parent.hook('preSubcommand', async (_, command) => {
      const config = sources.config();
      const text = readText(config);
      if (text !== undefined) {
        // Most have no file, and what reads YAML takes memory that a server is to have for networks.
        const { applyConfig } = await import('./config-file.ts');
        const known = (await sources.allCommands?.()) ?? program.commands;
        applyConfig(command, { path: config.path, text }, commandsOf(known));
      }
      applyEnvironment(command, sources.environment);
    });
  }
}

/** All commands, subcommands included; each that has options may have a section of its name. */
function commandsOf(commands: readonly Command[]): Command[] {
  return commands.flatMap((command) => [command, ...commandsOf(command.commands)]);
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

/** The text of a configuration file; undefined where there is none and none is required. @throws BonsaiError `invalid_config` */
export function readText({ path, isRequired }: ConfigSource): string | undefined {
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
