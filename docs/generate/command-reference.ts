import type { Argument, Command, Option } from 'commander';
import { EXIT_CODE_HELP } from '../../src/cli/exit-codes.ts';
import { code, GENERATED_NOTE, prose, table } from './markdown.ts';

/** Every command with its operands, options, defaults and examples, read off the parsers. */
export function commandReference(program: Command, commands: readonly Command[]): string {
  for (const command of commands) program.addCommand(command);
  return `${[
    '# Commands',
    GENERATED_NOTE,
    'Every command, option and default. `bonsai COMMAND --help` prints the same; what they are for is told by the pages of [the map](../README.md).',
    'Each option may also stand in [the configuration](configuration.md) or in the environment: `--max-queue` of `serve` is `max-queue:` below ' +
      '`serve:` in `bonsai.yaml`, and `BONSAI_MAX_QUEUE`. Durations are written as `400ms`, `1.5s`, `30m` or `2h`, sizes as `500MB` or `1GiB`, ' +
      'CPUs as `0`, `0,2` or `0-3`.',
    `${EXIT_CODE_HELP.trim()} \`bonsai request\` ends with 3 where no variant fits.`,
    `${code('bonsai')} itself:`,
    options(program),
    ...commands.flatMap((command) => section(command, [])),
  ].join('\n\n')}\n`;
}

function section(command: Command, parents: readonly string[]): string[] {
  const path = [...parents, command.name()];
  const operands = command.registeredArguments.filter(({ description }) => description !== '');
  return [
    `${'#'.repeat(1 + path.length)} ${path.join(' ')}`,
    prose(command.description()),
    '```',
    `bonsai ${path.join(' ')} ${command.usage()}`.trim(),
    '```',
    ...(operands.length === 0 ? [] : [table(['operand', 'meaning'], operands.map(operandRow))]),
    ...(command.options.length === 0 ? [] : [options(command)]),
    ...notes(command),
    ...command.commands.flatMap((child) => section(child, path)),
  ].reduce<string[]>(joinFences, []);
}

/** Code stands between its fences without empty lines. */
function joinFences(parts: string[], part: string): string[] {
  const last = parts.at(-1);
  if (last?.startsWith('```') && !last.endsWith('\n```')) return [...parts.slice(0, -1), `${last}\n${part}`];
  return [...parts, part];
}

function operandRow(operand: Argument): string[] {
  const { required, variadic } = operand;
  const name = `${operand.name()}${variadic ? '…' : ''}`;
  return [code(required ? `<${name}>` : `[${name}]`), prose(operand.description) + choices(operand)];
}

function options(command: Command): string {
  const rows = command
    .createHelp()
    .visibleOptions(command)
    .filter(({ long }) => long !== '--help')
    .map((option) => [
      code(option.flags),
      option.mandatory ? 'required' : defaultOf(option),
      prose(option.description) + choices(option),
    ]);
  return table(['option', 'default', 'meaning'], rows);
}

function defaultOf({ defaultValue, defaultValueDescription }: Option): string {
  if (defaultValueDescription !== undefined) return defaultValueDescription;
  if (defaultValue === undefined || defaultValue === false) return '';
  return code(Array.isArray(defaultValue) ? defaultValue.join() : String(defaultValue));
}

function choices({ argChoices }: { readonly argChoices?: readonly string[] }): string {
  return argChoices === undefined ? '' : ` (${argChoices.map(code).join(', ')})`;
}

/** Examples and remarks that follow the options in the command's help, but for the exit codes, which are those of all. */
function notes(command: Command): string[] {
  let written = '';
  command.configureOutput({
    writeOut: (text) => {
      written += text;
    },
    getOutHelpWidth: () => 80,
    getOutHasColors: () => false,
  });
  command.outputHelp();
  const text = written.slice(command.helpInformation().length).replace(EXIT_CODE_HELP, '').trim();
  return text === '' ? [] : ['```', text, '```'];
}
