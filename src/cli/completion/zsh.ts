import { allNodes, type CompletionNode, type CompletionOption, nameOf, type Values } from './tree.ts';

/** A completion script for zsh, one function for each command; to be sourced, or kept as \`_bonsai\` in \$fpath. */
export function zshCompletion(tree: CompletionNode): string {
  return `#compdef bonsai
# Completion of bonsai for zsh: source <(bonsai completion zsh)

${allNodes(tree).map(functionOf).join('\n\n')}

if [[ $funcstack[1] == _bonsai ]]; then
  _bonsai "$@"
else
  compdef _bonsai bonsai
fi
`;
}

function functionOf(node: CompletionNode): string {
  const name = functionName(node);
  const options = node.options.flatMap(optionSpecs);
  if (node.commands.length === 0) {
    const operands = node.operands.map((value, i) => `'${i + 1}:argument:${actionOf(value)}'`);
    return `${name}() {
  _arguments -s \\
    ${[...options, ...operands].join(' \\\n    ')}
}`;
  }
  const children = node.commands.map(
    (child) => `    '${escaped(nameOf(child))}:${escaped(child.description)}'`,
  );
  return `${name}() {
  local curcontext="$curcontext" state line
  typeset -A opt_args
  local -a commands=(
${children.join('\n')}
  )
  _arguments -C -s \\
    ${[...options, "'1: :->command'", "'*:: :->rest'"].join(' \\\n    ')}
  case $state in
    command) _describe command commands ;;
    rest)
      case $words[1] in
${node.commands.map((child) => `        ${nameOf(child)}) ${functionName(child)} ;;`).join('\n')}
      esac
      ;;
  esac
}`;
}

function optionSpecs({ flags, description, value }: CompletionOption): string[] {
  const others = flags.length > 1 ? `(${flags.join(' ')})` : '';
  return flags.map((flag) =>
    value === undefined
      ? `'${others}${flag}[${escaped(description)}]'`
      : `'${others}${flag}=[${escaped(description)}]:value:${actionOf(value)}'`,
  );
}

function actionOf({ words, paths }: Values): string {
  const files = paths === 'files' ? '_files' : '_files -/';
  if (words.length === 0) return paths === 'none' ? ' ' : files;
  const list = `(${words.map((word) => escaped(word)).join(' ')})`;
  return list;
}

function functionName({ path }: CompletionNode): string {
  return ['_bonsai', ...path.split(' ').filter((word) => word !== '')].join('_').replaceAll('-', '_');
}

/** Within single quotes, in a specification of _arguments or an entry of _describe. */
function escaped(text: string): string {
  return text
    .replaceAll('\\', '\\\\')
    .replace(/[:[\]]/g, '\\$&')
    .replaceAll("'", String.raw`'\''`);
}
