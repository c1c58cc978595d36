import type { Argument, Command, Option } from 'commander';
import { suggestionsOf } from '../suggestions.ts';

/** What a shell offers as a value. */
export interface Values {
  readonly words: readonly string[];
  readonly paths: 'files' | 'folders' | 'none';
}

export interface CompletionOption {
  /** Such as `-h` and `--help`. */
  readonly flags: readonly string[];
  readonly description: string;
  /** Absent for flags, which take none. */
  readonly value?: Values;
}

/** A command as shells see it. */
export interface CompletionNode {
  /** The words that lead here behind the program's name: empty for the program, `repo list`. */
  readonly path: string;
  readonly description: string;
  readonly options: readonly CompletionOption[];
  /** By position; the last is repeated where the command takes any number. */
  readonly operands: readonly Values[];
  readonly commands: readonly CompletionNode[];
}

/** The program with all its commands, read off commander's own records. */
export function completionTree(program: Command, commands: readonly Command[]): CompletionNode {
  const root = nodeOf(program, '');
  const nodes = commands.map((command) => nodeOf(command, command.name()));
  return { ...root, commands: [...nodes, helpNode(nodes)] };
}

/** Commander's own command, which it does not list. */
function helpNode(commands: readonly CompletionNode[]): CompletionNode {
  return {
    path: 'help',
    description: 'shows the help of a command',
    options: [],
    operands: [{ words: commands.map(nameOf), paths: 'none' }],
    commands: [],
  };
}

/** The node and all below it, parents first. */
export function allNodes(node: CompletionNode): CompletionNode[] {
  return [node, ...node.commands.flatMap(allNodes)];
}

/** The last word of a node's path. */
export const nameOf = ({ path }: CompletionNode) => path.split(' ').at(-1)!;

function nodeOf(command: Command, path: string): CompletionNode {
  return {
    path,
    description: command.description(),
    options: command.createHelp().visibleOptions(command).map(optionOf),
    operands: command.registeredArguments.map(operandOf),
    commands: command.commands.map((child) => nodeOf(child, `${path} ${child.name()}`.trim())),
  };
}

function optionOf(option: Option): CompletionOption {
  const flags = [option.short, option.long].filter((flag) => flag !== undefined);
  const placeholder = /[<[]([^>\].]+)/.exec(option.flags)?.[1];
  const { description } = option;
  if (placeholder === undefined) return { flags, description };
  const words = option.argChoices ?? suggestionsOf(option);
  return { flags, description, value: { words, paths: pathsOf(placeholder) } };
}

function operandOf(argument: Argument): Values {
  return { words: argument.argChoices ?? suggestionsOf(argument), paths: pathsOf(argument.name()) };
}

/** What placeholders in help texts mean. */
function pathsOf(placeholder: string): Values['paths'] {
  if (FILES.has(placeholder)) return 'files';
  return FOLDERS.has(placeholder) ? 'folders' : 'none';
}

const FILES: ReadonlySet<string> = new Set(['file', 'model', 'models', 'repository-or-fleet']);
const FOLDERS: ReadonlySet<string> = new Set(['dir', 'repository']);
