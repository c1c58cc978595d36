import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
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
    ['bonsai experiment le', ['league'], ['coallocation']],
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
    ['bonsai help ser', ['serve'], ['models']],
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
  it('is registered, and every function that it calls is there', () => {
    const source =
      'autoload -Uz compinit; compinit -D -u; source $1; print $_comps[bonsai]; whence -m "_bonsai*"';
    const output = execFileSync('zsh', ['-f', '-c', source, 'zsh', script('zsh')], {
      cwd: folder,
      encoding: 'utf8',
    });
    const [registered, ...functions] = output.trim().split('\n');
    expect(registered).toBe('_bonsai');
    const called = [...readFileSync(script('zsh'), 'utf8').matchAll(/\) (_bonsai_\w+) ;;/g)].map(
      (call) => call[1]!,
    );
    expect(called).toContain('_bonsai_repo_verify');
    expect(called.filter((name) => !functions.includes(name))).toEqual([]);
  });

  it('offers commands and values', async () => {
    // Within a pseudo-terminal, in which Ctrl-T lists what is offered: zsh can be asked in no other way.
    // What is typed is shown as well, so marks are typed in two parts; a prompt means that keys are listened to.
    const source = `
      zmodload zsh/zpty
      zpty shell zsh -f -i
      zpty -w shell 'PS1=; unsetopt prompt_cr prompt_sp zle_bracketed_paste; cd $BONSAI_TEST_FOLDER'
      zpty -w shell 'autoload -Uz compinit; compinit -D -u; source bonsai.zsh; LISTMAX=0; bindkey "^T" list-choices'
      zpty -w shell 'PS1=re""ady\\>'
      zpty -r -m shell heard '*ready>*'
      zpty -w -n shell "$1"$'\\C-T'$'\\C-U'"print DO''NE"$'\\n'
      zpty -r -m shell heard '*DONE*'
      print -r -- "$heard"
      zpty -d shell`;
    const ask = (line: string) =>
      execFileSync('zsh', ['-f', '-c', source, 'zsh', line], {
        encoding: 'utf8',
        env: { ...process.env, TERM: 'vt100', BONSAI_TEST_FOLDER: folder },
      });
    expect(ask('bonsai repo ')).toMatch(/list[\s\S]*verify/);
    expect(ask('bonsai serve --log-level ')).toMatch(/debug[\s\S]*warn/);
    expect(ask('bonsai inspect ')).toContain('network.onnx');
  });
});
