import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { TaskObjective } from '../policy/policy.ts';
import { installOptionSources } from './config.ts';
import { readTaskObjectives } from './task-objectives.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-tasks-'));
});
afterEach(() => rm(folder, { recursive: true }));

/** The objectives that `serve` finds, with the file checked as for any command. */
async function objectivesIn(yaml: string | undefined): Promise<ReadonlyMap<string, TaskObjective>> {
  const path = join(folder, 'bonsai.yaml');
  if (yaml !== undefined) await writeFile(path, yaml);
  let found: ReadonlyMap<string, TaskObjective> | undefined;
  const serve = new Command('serve').option('--host <address>').action(async (_options, self: Command) => {
    found = await readTaskObjectives(self, ['digits', 'signs']);
  });
  const program = new Command().option('--config <file>', '', path).addCommand(serve);
  installOptionSources(program, { config: () => ({ path, isRequired: false }), environment: {} });
  await program.parseAsync(['serve'], { from: 'user' });
  return found!;
}

test('weights, objectives and floors of single tasks stand beside the sections of commands', async () => {
  const yaml =
    'serve:\n  host: ::1\ntasks:\n  digits: { weight: 2, slo: 200ms, min-accuracy: 0.9 }\n  signs:\n    slo: 1s\n';
  expect([...(await objectivesIn(yaml))]).toEqual([
    ['digits', { weight: 2, sloMs: 200, minAccuracy: 0.9 }],
    ['signs', { sloMs: 1000 }],
  ]);
  expect((await objectivesIn('serve:\n  host: ::1\n')).size).toBe(0);
});

test('without a file nothing is asked', async () => {
  expect((await objectivesIn(undefined)).size).toBe(0);
});

test.each([
  ['tasks: 3\n', /bonsai\.yaml:1: "tasks" should hold a section per task/],
  [
    'tasks:\n  digts: { weight: 1 }\n',
    /bonsai\.yaml:2: the repository has no task "digts"\. It has: digits, signs/,
  ],
  ['tasks:\n  digits: 3\n', /bonsai\.yaml:2: "digits" should hold weight, slo, min-accuracy/],
  [
    'tasks:\n  digits:\n    wait: 3\n',
    /bonsai\.yaml:3: a task has no "wait"\. Known: weight, slo, min-accuracy/,
  ],
  ['tasks:\n  digits:\n    weight: 0\n', /bonsai\.yaml:3: "weight" of digits should be a number > 0/],
  ['tasks:\n  digits:\n    slo: soon\n', /bonsai\.yaml:3: "slo" of digits should be a duration/],
  [
    'tasks:\n  digits:\n    min-accuracy: 90\n',
    /bonsai\.yaml:3: "min-accuracy" of digits should be .* 0 to 1/,
  ],
  ['tasks:\n  digits:\n    weight: [1]\n', /bonsai\.yaml:3: "weight" of digits should be/],
])('%j is refused with its place', async (yaml, complaint) => {
  await expect(objectivesIn(yaml)).rejects.toThrow(complaint);
});
