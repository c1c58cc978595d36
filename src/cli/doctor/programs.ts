import { spawnSync } from 'node:child_process';
import type { Finding } from './finding.ts';

interface Program {
  readonly name: string;
  readonly command: string;
  readonly arguments: readonly string[];
  /** What it is for, and how to get it. */
  readonly use: string;
  readonly debian: string;
}

const PROGRAMS: readonly Program[] = [
  {
    name: 'NGINX',
    command: 'nginx',
    arguments: ['-v'],
    use: 'only a fleet behind a balancer needs it',
    debian: 'nginx-light',
  },
  {
    name: 'Prometheus',
    command: 'prometheus',
    arguments: ['--version'],
    use: 'only to keep metrics and be alerted',
    debian: 'prometheus',
  },
];

/** Programs that Bonsai works with, none of which it needs. */
export function checkPrograms(programs: readonly Program[] = PROGRAMS): readonly Finding[] {
  return programs.map(({ name, command, arguments: args, use, debian }): Finding => {
    const { error, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
    if (error !== undefined)
      return { name, status: 'ok', found: `not there; ${use} (Debian: apt-get install ${debian})` };
    const version = /\d+\.\d+(\.\d+)?/.exec(`${stdout}${stderr}`)?.[0] ?? 'of an unknown version';
    return { name, status: 'ok', found: version };
  });
}
