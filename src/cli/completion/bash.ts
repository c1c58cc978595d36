import { allNodes, type CompletionNode, nameOf, type Values } from './tree.ts';

/**
 * A completion script for bash (4.4 or newer; macOS has 3.2 unless a newer one is installed). Words are split at blanks
 * here rather than taken from COMP_WORDS, since bash also splits at `=` and `:`, which values may hold.
 */
export function bashCompletion(tree: CompletionNode): string {
  const nodes = allNodes(tree);
  const values = nodes.flatMap(({ path, options }) =>
    options.flatMap(({ flags, value }) =>
      value === undefined
        ? []
        : [`    ${flags.map((flag) => quoted(`${path}:${flag}`)).join('|')}) ${offers(value)} ;;`],
    ),
  );
  const operands = nodes.flatMap(({ path, operands }) =>
    operands.map((value, i) => `    ${quoted(`${path}:${i}`)}) ${offers(value)} ;;`),
  );
  const commands = nodes.slice(1).map(({ path }) => quoted(path));
  const flags = nodes.map(
    ({ path, options }) =>
      `    ${quoted(path)}) words=${quoted(options.flatMap((option) => option.flags).join(' '))} ;;`,
  );
  const children = nodes
    .filter((node) => node.commands.length > 0)
    .map((node) => `    ${quoted(node.path)}) words=${quoted(node.commands.map(nameOf).join(' '))} ;;`);
  return `# Completion of bonsai for bash: source <(bonsai completion bash)

# The value of an option: sets words and paths; fails for options without a value.
_bonsai_value() {
  words='' paths=none
  case "$1:$2" in
${values.join('\n')}
    *) return 1 ;;
  esac
}

_bonsai_operand() {
  words='' paths=none
  case "$1:$2" in
${operands.join('\n')}
  esac
}

_bonsai_is_command() {
  case "$1" in
    ${commands.join('|')}) return 0 ;;
    *) return 1 ;;
  esac
}

_bonsai() {
  local line=\${COMP_LINE:0:COMP_POINT} typed current previous='' command='' candidate word words paths operand=0 i
  local -a typed
  read -ra typed <<<"$line"
  [[ $line == *[[:space:]] ]] && typed+=('')
  current=\${typed[\${#typed[@]} - 1]}
  for ((i = 1; i < \${#typed[@]} - 1; i++)); do
    word=\${typed[i]}
    candidate="\${command:+$command }$word"
    if [[ -n $previous ]]; then
      previous=''
    elif [[ $word == -* ]]; then
      _bonsai_value "$command" "$word" && previous=$word
    elif _bonsai_is_command "$candidate"; then
      command=$candidate
    else
      ((operand++))
    fi
  done
  if [[ $current == --*=* ]]; then
    previous=\${current%%=*} current=\${current#*=}
  fi
  if [[ -n $previous ]]; then
    _bonsai_value "$command" "$previous" || return 0
  elif [[ $current == -* ]]; then
    paths=none
    case "$command" in
${flags.join('\n')}
    esac
  else
    _bonsai_operand "$command" "$operand"
    ((operand == 0)) && case "$command" in
${children.join('\n')}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  case "$paths" in
    files) COMPREPLY+=($(compgen -f -- "$current")) ;;
    folders) COMPREPLY+=($(compgen -d -- "$current")) ;;
  esac
  [[ $paths == none ]] || compopt -o filenames 2>/dev/null
  # Bash replaces only what stands behind the last = or :.
  word=\${COMP_WORDS[COMP_CWORD]-}
  [[ $word == [=:] ]] && word=''
  if [[ $current == *"$word" && \${#word} -lt \${#current} ]]; then
    COMPREPLY=("\${COMPREPLY[@]#"\${current%"$word"}"}")
  fi
  return 0
}

complete -F _bonsai bonsai
`;
}

function offers({ words, paths }: Values): string {
  return (
    [
      ...(words.length > 0 ? [`words=${quoted(words.join(' '))}`] : []),
      ...(paths === 'none' ? [] : [`paths=${paths}`]),
    ].join(' ') || ':'
  );
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
