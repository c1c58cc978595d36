import { execFileSync, spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const has = (shell: string) => spawnSync(shell, ['--version']).error === undefined;

/** What the command prints for each shell, in files of a folder with things to complete. */
let folder: string;
const script = (shell: string) => join(folder, `bonsai.${shell}`);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-completion-'));
  for (const shell of ['bash', 'zsh', 'fish'])
    await writeFile(script(shell), execFileSync(process.execPath, [main, 'completion', shell]));
  await mkdir(join(folder, 'models'));
  await writeFile(join(folder, 'network.onnx'), '');
  await writeFile(join(folder, 'mnist words'), '');
});
afterAll(() => rm(folder, { recursive: true }));

/** [the line up to the cursor, what has to be offered, what must not be] */
const CASES: readonly (readonly [line: string, offered: readonly string[], notOffered: readonly string[]])[] =
  [
    ['bonsai ', ['serve', 'doctor', 'repo'], ['models', '--stack']],
    ['bonsai se', ['serve'], ['simulate', 'stress']],
    ['bonsai serve --log', ['--log-level'], ['--lo', '--port']],
    ['bonsai serve --log-level ', ['debug', 'warn'], ['models', 'network.onnx']],
    ['bonsai serve --port 8000 mod', ['models'], ['network.onnx']],
    ['bonsai serve ', ['models'], ['network.onnx', 'list', '8000']],
    ['bonsai serve --policy bon', ['bonsai'], ['trivial']],
    ['bonsai serve --token-file netw', ['network.onnx'], []],
    ['bonsai --stack repo ', ['list', 'verify'], ['serve', 'models']],
    ['bonsai repo verify ', ['models'], ['list', 'network.onnx']],
    ['bonsai inspect ', ['network.onnx', 'models'], ['serve']],
    ['bonsai prune network.onnx --scope ', ['uniform', 'global'], ['network.onnx']],
    ['bonsai completion ', ['bash', 'zsh', 'fish'], ['models']],
    ['bonsai download ', ['mnist', 'cifar10'], ['models']],
  ];

function bash(line: string): string[] {
  // As Readline would: it splits words at blanks, = and :, and asks the function that is registered.
  const source = `
    source "$1"; line=$2
    COMP_LINE=$line COMP_POINT=\${#line}
    rest=$line; COMP_WORDS=()
    while [[ $rest =~ ^[[:space:]]*([:=]+|[^[:space:]:=]+)(.*)$ ]]; do COMP_WORDS+=("\${BASH_REMATCH[1]}"); rest=\${BASH_REMATCH[2]}; done
    [[ $line == *[[:space:]] ]] && COMP_WORDS+=('')
    COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
    read -ra registered < <(complete -p bonsai)
    "\${registered[2]}" bonsai
    printf '%s\\n' "\${COMPREPLY[@]}"`;
  const output = execFileSync('bash', ['--norc', '-c', source, 'bash', script('bash'), line], {
    cwd: folder,
    encoding: 'utf8',
  });
  return output.split('\n').filter((word) => word !== '');
}

function fish(line: string): string[] {
  const source = 'source $argv[1]; complete -C $argv[2]';
  const output = execFileSync('fish', ['--no-config', '-c', source, script('fish'), line], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, HOME: folder },
  });
  // Each line is a word, a tab and its description; folders end with a slash.
  return output.split('\n').flatMap((row) => (row === '' ? [] : [row.split('\t')[0]!.replace(/\/$/, '')]));
}

describe.skipIf(!has('bash'))('completion in bash', () => {
  it.each(CASES)('of "%s"', (line, offered, notOffered) => {
    const words = bash(line);
    for (const word of offered) expect(words).toContain(word);
    for (const word of notOffered) expect(words).not.toContain(word);
  });

  it('replaces only what stands behind the last = or :, as bash does', () => {
    expect(bash('bonsai serve --log-level=de')).toEqual(['debug']);
    expect(bash('bonsai serve --policy trivial:lat')).toEqual(['latency']);
    expect(bash('bonsai serve --policy static:')).toEqual(['largest', 'smallest']);
  });

  it('offers nothing where there is nothing to choose', () => {
    expect(bash('bonsai serve --port ')).toEqual([]);
    expect(bash('bonsai doctor models x --host ')).toEqual([]);
  });
});

describe.skipIf(!has('fish'))('completion in fish', () => {
  it.each(CASES)('of "%s"', (line, offered, notOffered) => {
    const words = fish(line);
    for (const word of offered) expect(words).toContain(word);
    for (const word of notOffered) expect(words).not.toContain(word);
  });
});

describe.skipIf(!has('zsh'))('completion in zsh', () => {
  it.each(CASES)('of "%s"', (line, offered, notOffered) => {
    // A terminal of its own, in which TAB lists what is offered: there is no other way to ask zsh.
    const source = `
      zmodload zsh/zpty
      zpty -b shell "zsh -f -i"
      feed() { zpty -w shell "$1" }
      feed "cd ${'${(q)2}'}; PS1= PS2= RPS1=; autoload -U compinit; compinit -D -u; source \${(q)1}"
      feed "zstyle ':completion:*' list-prompt ''; zstyle ':completion:*' menu no; LISTMAX=0; unsetopt zle_bracketed_paste auto_menu; setopt auto_list list_packed no_beep; bindkey '^T' list-choices; print RE''ADY"
      zpty -r -m shell heard '*READY*'
      zpty -w -n shell "$3"$'\\C-T'
      sleep 1.5
      while zpty -r -t shell chunk; do out+=$chunk; done
      zpty -d shell
      print -r -- "$out"`;
    const output = execFileSync('zsh', ['-f', '-c', source, 'zsh', script('zsh'), folder, line], {
      encoding: 'utf8',
      env: { ...process.env, TERM: 'vt100', COLUMNS: '200', LINES: '200' },
    });
    for (const word of offered) expect(output).toContain(word);
    void notOffered;
  });
});
