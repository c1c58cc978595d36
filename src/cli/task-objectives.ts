import type { Command } from 'commander';
import type { TaskObjective } from '../policy/policy.ts';
import { CONFIG_FILE, readText } from './config.ts';
import { parseDurationMs } from './parse.ts';

/** Keys of a task there, with what they should hold. */
export const TASK_FIELDS = {
  weight: 'a number > 0',
  slo: 'a duration such as 200ms',
  'min-accuracy': 'a normalised accuracy from 0 to 1',
} as const;

/**
 * Reads what is asked of single tasks from the configuration file of a command:
 *
 *     tasks:
 *       digits: { weight: 2, slo: 200ms, min-accuracy: 0.9 }
 *
 * @param known names of tasks; undefined: any
 * @throws BonsaiError `invalid_config` naming file, line and field
 */
export async function readTaskObjectives(
  command: Command,
  known: readonly string[] | undefined,
): Promise<ReadonlyMap<string, TaskObjective>> {
  const path = command.optsWithGlobals<{ config?: string }>().config ?? CONFIG_FILE;
  // One that has to be there was missed before any command began.
  const text = readText({ path, isRequired: false });
  const objectives = new Map<string, TaskObjective>();
  if (text === undefined) return objectives;
  // Most have no file, and what reads YAML takes memory.
  const { isMap, isScalar } = await import('yaml');
  const { nameOf, openConfig, TASKS_SECTION } = await import('./config-file.ts');
  const { fail, lineOf, sections } = openConfig({ path, text });
  const section = sections.find(({ key }) => nameOf(key) === TASKS_SECTION)?.value;
  if (section === undefined) return objectives;
  if (!isMap(section)) throw fail(lineOf(section), `"${TASKS_SECTION}" should hold a section per task.`);
  for (const { key, value } of section.items) {
    const task = nameOf(key);
    if (known?.includes(task) === false) {
      throw fail(lineOf(key), `the repository has no task "${task}". It has: ${known.join(', ') || 'none'}.`);
    }
    if (!isMap(value))
      throw fail(lineOf(value ?? key), `"${task}" should hold ${Object.keys(TASK_FIELDS).join(', ')}.`);
    let objective: TaskObjective = {};
    for (const pair of value.items) {
      const field = nameOf(pair.key);
      if (!Object.hasOwn(TASK_FIELDS, field)) {
        throw fail(
          lineOf(pair.key),
          `a task has no "${field}". Known: ${Object.keys(TASK_FIELDS).join(', ')}.`,
        );
      }
      const name = field as keyof typeof TASK_FIELDS; // One of its own keys.
      const part = isScalar(pair.value) ? parsed(name, String(pair.value.value)) : undefined;
      if (part === undefined) {
        throw fail(lineOf(pair.value ?? pair.key), `"${field}" of ${task} should be ${TASK_FIELDS[name]}.`);
      }
      objective = { ...objective, ...part };
    }
    objectives.set(task, objective);
  }
  return objectives;
}

/** Undefined for what it should not be. */
function parsed(field: keyof typeof TASK_FIELDS, text: string): TaskObjective | undefined {
  const number = Number(text);
  switch (field) {
    case 'weight':
      return number > 0 && Number.isFinite(number) ? { weight: number } : undefined;
    case 'min-accuracy':
      return number >= 0 && number <= 1 ? { minAccuracy: number } : undefined;
    case 'slo':
      try {
        return { sloMs: parseDurationMs(text) };
      } catch {
        return undefined; // The message names what is expected.
      }
    default:
      return field satisfies never;
  }
}
