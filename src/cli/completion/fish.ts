import { allNodes, type CompletionNode, type CompletionOption, nameOf, type Values } from './tree.ts';

/** A completion script for fish. */
export function fishCompletion(tree: CompletionNode): string {
  const nodes = allNodes(tree);
  const lines = nodes.flatMap((node) => [
    ...node.commands.map(
      (child) => `${at(node)} -f -a ${quoted(nameOf(child))} -d ${quoted(child.description)}`,
    ),
    ...node.options.map((option) => `${at(node)} ${optionText(option)}`),
    ...node.operands.flatMap((value) => (isEmpty(value) ? [] : [`${at(node)} ${valueText(value)}`])),
  ]);
  return `# Completion of bonsai for fish: bonsai completion fish | source

# Whether the words so far lead to this command.
function __bonsai_at
    set -l path
    for word in (commandline -opc)[2..-1]
        if contains -- (string join ' ' -- $path $word) ${nodes
          .slice(1)
          .map(({ path }) => quoted(path))
          .join(' ')}
            set -a path $word
        end
    end
    set -l joined (string join ' ' -- $path)
    test "$joined" = "$argv[1]"
end

complete -c bonsai -e
complete -c bonsai -f
${lines.join('\n')}
`;
}

const at = ({ path }: CompletionNode) => `complete -c bonsai -n ${quoted(`__bonsai_at "${path}"`)}`;

const isEmpty = ({ words, paths }: Values) => words.length === 0 && paths === 'none';

function optionText({ flags, description, value }: CompletionOption): string {
  const names = flags.map((flag) => (flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`));
  const takes = value === undefined ? [] : [valueText(value)];
  return [...names, `-d ${quoted(description)}`, ...takes].join(' ');
}

function valueText({ words, paths }: Values): string {
  if (paths === 'files') return `-r -F${words.length > 0 ? ` -a ${quoted(words.join(' '))}` : ''}`;
  const folders = paths === 'folders' ? ['(__fish_complete_directories)'] : [];
  const offered = [...words, ...folders];
  return offered.length === 0 ? '-x' : `-x -a ${quoted(offered.join(' '))}`;
}

function quoted(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
