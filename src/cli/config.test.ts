import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { environmentName, installOptionSources } from './config.ts';
import { parseInteger } from './parse.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-config-'));
});
afterEach(() => rm(folder, { recursive: true }));

/** The options that `serve` ends up with, for flags, environment and a configuration file. */
async function optionsOf(
  flags: string[],
  yaml?: string,
  environment: Record<string, string> = {},
  isRequired = false,
): Promise<Record<string, unknown>> {
  const file = join(folder, 'bonsai.yaml');
  if (yaml !== undefined) await writeFile(file, yaml);
  const command = new Command('serve')
    .addOption(new Option('--port <n>').argParser(parseInteger(0, 65_535)).default(8000))
    .addOption(new Option('--level <name>').choices(['low', 'high']))
    .option('--host <address>', '', '127.0.0.1')
    .option('--json')
    .action(() => {});
  const train = new Command('train').option('--epochs <n>').action(() => {});
  const program = new Command().addCommand(command).addCommand(train);
  installOptionSources(program, { config: () => ({ path: file, isRequired }), environment });
  await program.parseAsync(['serve', ...flags], { from: 'user' });
  return command.opts();
}

describe('configuration', () => {
  it('takes the flag before the environment, the environment before the file, the file before the default', async () => {
    const yaml = 'serve:\n  port: 3\n  host: ::1\n';
    expect(await optionsOf([])).toMatchObject({ port: 8000, host: '127.0.0.1' });
    expect(await optionsOf([], yaml)).toMatchObject({ port: 3, host: '::1' });
    const environment = { BONSAI_PORT: '2', BONSAI_JSON: 'true' };
    expect(await optionsOf([], yaml, environment)).toMatchObject({ port: 2, host: '::1', json: true });
    expect(await optionsOf(['--port', '1'], yaml, environment)).toMatchObject({ port: 1 });
  });

  it.each([
    ['serve:\n  prot: 3\n', /bonsai\.yaml:2: serve has no option "prot"\. Known: port, level, host, json/],
    ['serve:\n  port: many\n', /bonsai\.yaml:2: "port": Expected an integer/],
    ['serve:\n  port: [1]\n', /bonsai\.yaml:2: "port" should be a single value/],
    ['serve:\n  json: perhaps\n', /bonsai\.yaml:2: "json" should be true or false/],
    ['serve:\n  json:\n', /bonsai\.yaml:2: "json" should be true or false/],
    ['train:\n  epoch: 3\n', /bonsai\.yaml:2: train has no option "epoch"\. Known: epochs\./],
    [
      'train:\n  epochs: 3\nsrve:\n  port: 3\n',
      /bonsai\.yaml:3: there is no command "srve" .*Known: serve, train\./,
    ],
    ['serve: 3\n', /bonsai\.yaml:1: "serve" should hold options/],
    ['- a\n', /expected a section per command/],
    ['serve: {\n', /bonsai\.yaml:\d+: /],
  ])('names file, line and field of %j', async (yaml, complaint) => {
    await expect(optionsOf([], yaml)).rejects.toThrow(complaint);
  });

  it.each([
    [{ BONSAI_PORT: 'many' }, /BONSAI_PORT: Expected an integer/],
    [{ BONSAI_LEVEL: 'deep' }, /BONSAI_LEVEL should be one of low, high/],
    [{ BONSAI_JSON: 'perhaps' }, /BONSAI_JSON should be true or false/],
  ])('names the variable of %j', async (environment, complaint) => {
    await expect(optionsOf([], undefined, environment)).rejects.toThrow(complaint);
  });

  it('leaves sections of other commands alone', async () => {
    expect(await optionsOf([], 'train:\n  epochs: 3\n')).toMatchObject({ port: 8000 });
  });

  it('wants a file that was named to be there, and any file to be readable', async () => {
    expect(await optionsOf([])).toMatchObject({ port: 8000 });
    await expect(optionsOf([], undefined, {}, true)).rejects.toMatchObject({
      code: 'invalid_config',
      message: expect.stringMatching(/bonsai\.yaml cannot be read: ENOENT.*--config/),
    });
    await mkdir(join(folder, 'bonsai.yaml'));
    await expect(optionsOf([])).rejects.toThrow(/cannot be read: EISDIR/);
  });

  it('names variables after flags', () => {
    expect(environmentName('--cpu-budget')).toBe('BONSAI_CPU_BUDGET');
  });
});
